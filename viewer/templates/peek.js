// What stands beside the pointer while it is over a mask: its best expressions that match.

const NUM_PEEKED = 4;
const peekBox = byId("peek");

function showPeek(mask, event) {
  const lines = bestOf(mask, NUM_PEEKED).map((e) => (
    make("p", isKept[e.id] ? "kept" : "rejected", spoken(e), make("span", "value", fixed(scoreOf(e))))
  ));
  const hides = mask.expressions.length > 0 && !lines.length ? "none matches · " : "";
  const rest = `${hides}${numKept(mask)} of ${mask.expressions.length} kept`;
  peekBox.className = colour(mask);
  peekBox.replaceChildren(...lines, make("span", "more", `${named(mask)} · ${rest}`));
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
