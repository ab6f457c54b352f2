// Keeps answers in this browser, as the text of the rater's file: what is stored is what is downloaded.

const FULL = "This browser cannot store your answers. Download them before you close the page.";

function openStorage(rater) {
  const key = `pseudoris-audit/${plan.draw.slice(0, 16)}/${rater}`;
  // What the browser refused to store; it holds more than what it stored before.
  const memory = new Map();
  const read = (name) => {
    try { return memory.get(name) ?? localStorage.getItem(name); } catch { return null; }
  };
  const write = (name, text) => {
    memory.set(name, text);
    try { localStorage.setItem(name, text); memory.delete(name); } catch { /* It is told below. */ }
    if (memory.size) tell(FULL);
  };

  function append(line) {
    // Read anew each time: another window of the same rater may have written.
    const text = read(key) ?? "";
    const previous = text ? text.slice(text.lastIndexOf('"digest":"') + 10).slice(0, 16) : "";
    const body = JSON.stringify(line).slice(0, -1);
    write(key, `${text}${body},"digest":"${sha256(previous + body).slice(0, 16)}"}\n`);
  }

  function standing() {
    const found = new Map();
    for (const line of (read(key) ?? "").split("\n").filter(Boolean).map((each) => JSON.parse(each))) {
      const id = line.pair ?? line.image;
      found.delete(id);
      if (line.line === "verdict" || line.line === "missed") found.set(id, line);
    }
    return [...found.values()];
  }

  function download() {
    const url = URL.createObjectURL(new Blob([read(key)], { type: "application/jsonl" }));
    const link = make("a", "");
    link.href = url;
    link.download = `${rater}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  return {
    open() {
      if (read(key) === null) {
        append({ line: "header", version: plan.version, draw: plan.draw, rater, created_utc: new Date().toISOString() });
      }
      return standing();
    },
    record: append,
    download,
  };
}
