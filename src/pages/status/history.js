// The figures of the last two minutes, as far as this page has seen them.

export const SECONDS = 120;
const MINUTE_MS = 60_000;

export class History {
  constructor() {
    this.seen = [];
  }

  // A gateway that was restarted counts from zero again, so what came before says nothing any more.
  add(at, stats) {
    const last = this.seen.at(-1);
    if (last && stats.uptime_s < last.stats.uptime_s) this.seen = [];
    this.seen.push({ at, stats });
    if (this.seen.length > SECONDS) this.seen.shift();
  }

  values(pick) {
    return this.seen.map(({ stats }) => pick(stats));
  }

  // How much a counter grew in the last minute, or since the page was opened.
  growth(pick) {
    const last = this.seen.at(-1);
    const first = this.seen.find(({ at }) => last.at - at <= MINUTE_MS);
    return (pick(last.stats) ?? 0) - (pick(first.stats) ?? 0);
  }
}
