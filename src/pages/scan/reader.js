// Reads QR codes on the device: by the browser's own detector where it has one that knows them, else by ZXing
// compiled to WebAssembly. Where neither works, the gateway reads frames (frames.js).

const FORMAT = 'qr_code';

async function browserReader() {
  if (!('BarcodeDetector' in window)) return null;
  if (!(await BarcodeDetector.getSupportedFormats()).includes(FORMAT)) return null;
  const detector = new BarcodeDetector({ formats: [FORMAT] });
  return async (canvas) => (await detector.detect(canvas)).map((code) => code.rawValue);
}

async function wasmReader() {
  const { prepareZXingModule, readBarcodes } = await import('/scan/zxing/reader/index.js');
  await prepareZXingModule({
    overrides: { locateFile: () => '/scan/zxing/zxing_reader.wasm' },
    fireImmediately: true,
  });
  const strict = new TextDecoder('utf-8', { fatal: true });
  const options = { formats: ['QRCode'], tryHarder: true, tryInvert: false, maxNumberOfSymbols: 4 };
  return async (canvas) => {
    const picture = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const codes = await readBarcodes(picture, options);
    return codes.filter((code) => code.isValid).map((code) => {
      try {
        // As the gateway reads them: cards hold UTF-8 without saying so, and a guess may take it for another.
        return strict.decode(code.bytes);
      } catch {
        return code.text;
      }
    });
  };
}

const KINDS = [
  { name: 'browser', make: browserReader },
  { name: 'wasm', make: wasmReader },
];

export class Reader {
  constructor() {
    this.waiting = [...KINDS];
    this.name = '';
    this.read = null;
  }

  // Payloads in the picture; null when nothing on this device can read.
  async codes(canvas) {
    for (;;) {
      try {
        if (this.read) return (await this.read(canvas)).filter((code) => code !== '');
        const kind = this.waiting.shift();
        if (!kind) return null;
        this.read = await kind.make();
        this.name = this.read ? kind.name : '';
      } catch {
        // Doesn't load or doesn't work here: on to the next.
        this.read = null;
        this.name = '';
      }
    }
  }
}
