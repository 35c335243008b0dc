// A gateway of its own: fresh data, fixed ports, so that it can be stopped and come back under the same address.

import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const BINARY = resolve(process.env.SCANGATE_BIN ?? 'target/release/scangate');
const READY_MS = 20_000;

// Gateways start at the same time, and none has its port before it listens.
const given = new Set();

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  if (given.has(port)) return freePort();
  given.add(port);
  return port;
}

export class Gateway {
  // `settings`: environment variables without SCANGATE_; one that has the services gets a port for them.
  static async start(settings = {}, hasServices = false) {
    const gateway = new Gateway();
    if (hasServices) {
      const port = await freePort();
      gateway.servicesOrigin = `http://localhost:${port}`;
      settings = { ...settings, SERVICES__LISTEN: `127.0.0.1:${port}` };
    }
    gateway.directory = await mkdtemp(join(tmpdir(), 'scangate-browser-'));
    gateway.data = join(gateway.directory, 'data');
    gateway.environment = Object.fromEntries(Object.entries(settings).map(([key, value]) => [`SCANGATE_${key}`, value]));
    const [publicPort, adminPort] = [await freePort(), await freePort()];
    // Browsers open the camera on localhost as on HTTPS.
    gateway.publicOrigin = `http://localhost:${publicPort}`;
    gateway.adminOrigin = `http://localhost:${adminPort}`;
    gateway.ports = [publicPort, adminPort];
    await gateway.up();
    return gateway;
  }

  async up() {
    const [publicPort, adminPort] = this.ports;
    const listen = ['--listen', `127.0.0.1:${publicPort}`, '--admin', `127.0.0.1:${adminPort}`];
    this.process = spawn(BINARY, ['serve', '--data-dir', this.data, ...listen], {
      env: { ...process.env, ...this.environment },
      stdio: ['ignore', 'ignore', process.env.SCANGATE_BROWSER_LOG ? 'inherit' : 'ignore'],
    });
    // Whatever ends this script ends the gateway.
    const child = this.process;
    process.once('exit', () => child.kill('SIGKILL'));
    this.ended = new Promise((done) => this.process.once('exit', done));
    const deadline = Date.now() + READY_MS;
    for (;;) {
      const ready = await fetch(`${this.publicOrigin}/readyz`).catch(() => null);
      if (ready?.ok) return;
      if (Date.now() > deadline || this.process.exitCode !== null) throw new Error('the gateway did not start');
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  async down(signal = 'SIGTERM') {
    this.process.kill(signal);
    await this.ended;
  }

  async end(signal) {
    if (this.process.exitCode === null) await this.down(signal);
    await rm(this.directory, { recursive: true, force: true });
  }

  async command(...args) {
    return (await run(BINARY, [...args, '--data-dir', this.data], { maxBuffer: 1 << 26 })).stdout.trim();
  }

  token(place) {
    return this.command('issue', 'device', '--place', place);
  }

  // A printed code of the specimen person: its payload, and its picture in the file.
  code(file) {
    return this.command('issue', 'person', '001093029317', ...(file ? ['--png', file] : []));
  }

  // The store's rows of the last three days.
  async rows() {
    const day = 86_400_000;
    const [from, to] = [Date.now() - 3 * day, Date.now() + day].map((at) => new Date(at).toISOString());
    const lines = await this.command('export', '--from', from, '--to', to);
    return lines.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  }

  async scan(token, qr, direction = 'in') {
    const response = await fetch(`${this.publicOrigin}/v1/checkins`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ id: crypto.randomUUID(), qr, direction }),
    });
    return response.status;
  }

  // Sends scans until one is refused for want of space.
  async fill() {
    const headers = { Authorization: `Bearer ${await this.token('full')}`, 'Content-Type': 'application/x-ndjson' };
    const qr = await this.code();
    for (let sent = 0; sent < 20_000; sent += 500) {
      const scans = Array.from({ length: 500 }, (_, index) => {
        const at = new Date(Date.now() - (sent + index) * 1000).toISOString();
        return JSON.stringify({ id: `full-${sent + index}`, qr, at, direction: 'in' });
      });
      const response = await fetch(`${this.publicOrigin}/v1/checkins`, { method: 'POST', headers, body: scans.join('\n') });
      if ((await response.text()).includes('"bound":"journal.bytes_max"')) return;
    }
    throw new Error('the journal has no bound');
  }
}
