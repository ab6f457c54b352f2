// Keeps answers on the page's own server: each promise is kept when the answer is on disk.

const GONE = "The server does not answer, and your last answer may not be stored. Reload this page. If that fails, start `pseudoris audit serve` again and open the address that it prints: it goes on where you were.";

function openBackEnd(rater) {
  async function ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    let reply;
    try {
      reply = await fetch(`${path}?rater=${encodeURIComponent(rater)}`, { cache: "no-store", ...options });
    } catch {
      throw new Error(GONE);
    }
    if (reply.status === 403) throw new Error(await reply.text());
    const found = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Error(found.error ?? `The server answers ${reply.status}.`);
    return found;
  }
  return {
    open: () => ask("answers"),
    outlines: (id) => ask(`outlines/${encodeURIComponent(id)}`),
    record: async (line) => (await ask("answer", line)).taken,
    keepClick: (pair, click) => ask("click", { pair, click }),
    download: null,
  };
}
