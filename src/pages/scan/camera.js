// The camera's picture, on a canvas no larger than what decoders need.

const SIDE_PX_MAX = 1280;

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
    this.canvas = document.createElement('canvas');
    this.lock = null;
  }

  get isOn() {
    return this.stream !== null;
  }

  // Throws an error whose message is the word for it.
  async start(ended) {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error('camera_insecure');
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: { ideal: 'environment' }, width: { ideal: 1280 }, height: { ideal: 720 } },
      });
    } catch (error) {
      const words = { NotAllowedError: 'camera_denied', SecurityError: 'camera_denied', NotFoundError: 'camera_missing' };
      throw new Error(words[error.name] ?? 'camera_busy');
    }
    this.stream.getVideoTracks()[0].addEventListener('ended', ended);
    this.video.srcObject = this.stream;
    await this.video.play().catch(() => {}); // Plays when the page is next seen.
    await this.stayAwake();
  }

  // A scanner's screen stays on, where the browser lets it. Ends whenever the page is hidden.
  async stayAwake() {
    if (this.isOn) this.lock = (await navigator.wakeLock?.request('screen').catch(() => null)) ?? null;
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
    this.lock?.release().catch(() => {});
    this.lock = null;
  }

  // The picture now; null while there is none.
  picture() {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!this.isOn || !width || !height || document.hidden) return null;
    const scale = Math.min(1, SIDE_PX_MAX / Math.max(width, height));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return this.canvas;
  }
}
