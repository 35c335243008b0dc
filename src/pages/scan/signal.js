// A tone and a buzz for each kind of verdict, so that nobody has to look.

import { recall, remember } from './memory.js';

const TONES = {
  recorded: [[880, 0.12]],
  duplicate: [[660, 0.1], [660, 0.1]],
  queued: [[660, 0.1], [880, 0.1]],
  refused: [[220, 0.35]],
};

const BUZZES = { recorded: [80], duplicate: [60, 60, 60], queued: [60, 60, 60], refused: [300] };

export class Signal {
  constructor(sound, vibration) {
    this.sound = sound;
    this.vibration = vibration;
    this.audio = null;
    for (const box of [sound, vibration]) {
      const key = `scangate.${box.id}`;
      box.checked = recall(key) !== 'off';
      box.addEventListener('change', () => remember(key, box.checked ? 'on' : 'off'));
    }
  }

  // Browsers let a page sound only after a touch or a key.
  allow() {
    this.audio ??= 'AudioContext' in window ? new AudioContext() : null;
    this.audio?.resume().catch(() => {});
  }

  give(kind) {
    if (!TONES[kind]) return;
    if (this.vibration.checked) navigator.vibrate?.(BUZZES[kind]);
    if (!this.sound.checked || this.audio?.state !== 'running') return;
    let at = this.audio.currentTime;
    for (const [frequency, length] of TONES[kind]) {
      const tone = this.audio.createOscillator();
      const volume = this.audio.createGain();
      volume.gain.value = 0.15;
      tone.frequency.value = frequency;
      tone.connect(volume).connect(this.audio.destination);
      tone.start(at);
      tone.stop(at + length);
      at += length + 0.06;
    }
  }
}
