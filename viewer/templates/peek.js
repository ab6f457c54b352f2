// What stands beside the pointer while it is over a mask: its best expressions.

const NUM_PEEKED = 4;
const peekBox = byId("peek");

function showPeek(mask, event) {
  const kept = mask.expressions.filter((e) => isKept[e.id]);
  const shown = (kept.length ? kept : mask.expressions).slice(0, NUM_PEEKED);
  const lines = shown.map((e) => {
    const line = make("p", kept.length ? "kept" : "rejected", spoken(e), make("span", "value", fixed(e.distinctiveness)));
    return line;
  });
  const rest = `${kept.length} of ${mask.expressions.length} kept`;
  peekBox.className = colour(mask);
  peekBox.replaceChildren(...lines, make("span", "more", `mask ${mask.index} · ${rest}`));
  peekBox.hidden = false;
  movePeek(event);
}

function movePeek(event) {
  const gap = 16;
  const { offsetWidth: width, offsetHeight: height } = peekBox;
  const left = event.clientX + gap + width > innerWidth ? event.clientX - gap - width : event.clientX + gap;
  const top = event.clientY + gap + height > innerHeight ? event.clientY - gap - height : event.clientY + gap;
  peekBox.style.translate = `${Math.max(4, left)}px ${Math.max(4, top)}px`;
}

function hidePeek() {
  peekBox.hidden = true;
}
