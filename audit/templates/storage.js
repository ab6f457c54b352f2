// Keeps a rater's answers in this browser, as the text of the rater's file: what is stored is what is downloaded.

const FULL = "This browser cannot store your answers. Download them before you close the page.";

function openStorage(rater) {
  const key = `pseudoris-audit/${plan.draw.slice(0, 16)}/${rater}`;
  // What the browser refused to store; it holds more than what it stored before.
  let refused = null;
  const read = () => {
    try { return refused ?? localStorage.getItem(key) ?? ""; } catch { return ""; }
  };

  function append(line) {
    // Read anew each time: another window of the same rater may have written.
    const before = read();
    const previous = before && before.slice(before.lastIndexOf('"digest":"') + 10).slice(0, 16);
    const body = JSON.stringify(line).slice(0, -1);
    const text = `${before}${body},"digest":"${sha256(previous + body).slice(0, 16)}"}\n`;
    try {
      localStorage.setItem(key, text);
      refused = null;
    } catch {
      refused = text;
      tell(FULL);
    }
  }

  function standing() {
    const found = new Map();
    for (const line of read().split("\n").filter(Boolean).map((each) => JSON.parse(each))) {
      const id = line.pair ?? line.image;
      found.delete(id);
      if (line.line === "verdict" || line.line === "missed") found.set(id, line);
    }
    return [...found.values()];
  }

  function download() {
    const url = URL.createObjectURL(new Blob([read()], { type: "application/jsonl" }));
    const link = make("a", "");
    link.href = url;
    link.download = `${rater}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  if (!read()) append({ line: "header", version: plan.version, draw: plan.draw, rater, created_utc: new Date().toISOString() });
  return { standing, append, download };
}

// SHA-256 of a text's UTF-8 bytes, as hex digits. A page on plain http has no crypto.subtle. Source: FIPS 180-4.

const firstBits = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32) | 0;
const primes = [];
for (let number = 2; primes.length < 64; number += 1) if (primes.every((prime) => number % prime)) primes.push(number);
const ROUNDS = primes.map((prime) => firstBits(Math.cbrt(prime)));
const INITIAL = primes.slice(0, 8).map((prime) => firstBits(Math.sqrt(prime)));
const turned = (word, by) => (word >>> by) | (word << (32 - by));

function mixed(hash, view, offset) {
  const words = new Int32Array(64);
  for (let i = 0; i < 16; i += 1) words[i] = view.getInt32(offset + 4 * i);
  for (let i = 16; i < 64; i += 1) {
    const low = turned(words[i - 15], 7) ^ turned(words[i - 15], 18) ^ (words[i - 15] >>> 3);
    const high = turned(words[i - 2], 17) ^ turned(words[i - 2], 19) ^ (words[i - 2] >>> 10);
    words[i] = words[i - 16] + low + words[i - 7] + high;
  }
  let [a, b, c, d, e, f, g, h] = hash;
  for (let i = 0; i < 64; i += 1) {
    const first = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i] + words[i]) | 0;
    const second = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  return [a, b, c, d, e, f, g, h].map((word, i) => (word + hash[i]) | 0);
}

function sha256(text) {
  const bytes = new TextEncoder().encode(text);
  const view = new DataView(new ArrayBuffer(64 * Math.ceil((bytes.length + 9) / 64)));
  new Uint8Array(view.buffer).set(bytes);
  view.setUint8(bytes.length, 0x80);
  view.setUint32(view.byteLength - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(view.byteLength - 4, bytes.length << 3);
  let hash = INITIAL;
  for (let offset = 0; offset < view.byteLength; offset += 64) hash = mixed(hash, view, offset);
  return hash.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}
