// Shows a question: its picture, what is asked, and what can be answered.

const NAMES = { right: "Right", several: "True of several", untrue: "Untrue", not_an_object: "Not an object", cannot_say: "Cannot say" };
const TASKS = {
  blind: ["Click what this text means", "No outline is shown yet. If the text fits several objects, click one of them."],
  verdict: ["Does the text fit what is outlined?", ""],
  missed: ["Click each object that has no outline", "One click an object. Click it too if less than half of it is outlined. A part of an outlined object is not missed."],
};

function setBusy(value) {
  isBusy = value;
  byId("judge").setAttribute("aria-busy", String(value));
  for (const button of document.querySelectorAll("#answers button, #not-found")) button.disabled = value;
  byId("undo").disabled = value || (!state.history.length && !marks.points.length);
  byId("undo-last").disabled = value;
  showPointing();
}

async function ask(question) {
  setBusy(true);
  isAsked = false;
  current = question;
  showProgress();
  if (question === null) return finish();
  show("judge");
  const kind = phase();
  const image = question.pair?.image ?? question.image;
  // The outlines of the question before do not belong to this picture.
  showOutlines([]);
  showWords(kind, question);
  const paths = plan.outlines[question.pair?.id ?? image];
  const isShown = await showPicture(image);
  askMarks({ blind: "one", missed: "many", verdict: null }[kind]);
  byId("absent").hidden = isShown;
  showOutlines(kind === "blind" || !isShown ? [] : paths, { isMany: kind === "missed" });
  if (paths.some((path) => !path)) tell("An outline of this picture is damaged and cannot be shown.");
  shownAt = performance.now();
  isAsked = true;
  setBusy(!isShown);
}

function showWords(kind, { pair }) {
  const [task, hint] = TASKS[kind];
  byId("task").textContent = pair?.follows === undefined ? task : "Another text for the same outline: does it fit?";
  byId("hint").textContent = hint;
  byId("hint").hidden = !hint;
  byId("text").textContent = pair?.text ?? "";
  byId("text").hidden = pair === undefined;
  byId("text").scrollTop = 0;
  byId("answers").hidden = kind !== "verdict";
  byId("pointing").hidden = kind === "verdict";
  byId("not-found").hidden = kind !== "blind";
  byId("outline-button").hidden = kind === "blind";
  stage.classList.remove("is-bare");
  byId("outline-button").setAttribute("aria-pressed", "true");
  // A comment begun on the blind click goes with the verdict.
  if (kind !== "verdict" || !pair.isBlind) closeComment();
}

function showPointing() {
  const number = marks.points.length;
  const label = marks.mode !== "many" ? "This is it" : number ? `Done: ${number} missed` : "Nothing is missed";
  byId("confirm").lastElementChild.textContent = label;
  byId("confirm").disabled = isBusy || (marks.mode === "one" && !number);
  if (number) byId("undo").disabled = isBusy;
}

function showProgress() {
  const { pairs, images } = progressOf(state);
  byId("progress").max = Math.max(1, roots.length + plan.missed.length);
  byId("progress").value = pairs + images;
  const isPair = current?.pair !== undefined || current === null;
  byId("count").textContent = isPair ? `${pairs} of ${roots.length} texts` : `${images} of ${plan.missed.length} pictures`;
}

function confirmMarks() {
  if (byId("confirm").disabled) return;
  if (phase() === "blind") giveClick(marks.points[0]);
  else if (phase() === "missed") giveMissed();
}

function finish() {
  const number = [...state.verdicts.keys()].length;
  byId("done").textContent = `You gave ${number} verdicts and searched ${state.missed.size} pictures.`;
  show("finished");
  isAsked = true;
  byId("absent").hidden = true;
  setBusy(false);
  byId("undo-last").disabled = !state.history.length;
}

function openComment() {
  byId("comment").hidden = false;
  byId("comment-button").setAttribute("aria-expanded", "true");
  byId("comment").focus();
}

function closeComment() {
  byId("comment").value = "";
  byId("comment").hidden = true;
  byId("comment-button").setAttribute("aria-expanded", "false");
}

function listenToPanel() {
  const texts = Object.entries(plan.verdicts);
  byId("answers").replaceChildren(...texts.map(([verdict, meaning], number) => {
    const button = make("button", "answer", make("kbd", "", String(number + 1)), make("b", "", NAMES[verdict]), make("small", "", meaning));
    button.type = "button";
    button.addEventListener("click", () => giveVerdict(verdict));
    return button;
  }));
  byId("meanings").replaceChildren(...texts.map(([verdict, meaning]) => (
    make("div", "", make("dt", "", NAMES[verdict]), make("dd", "", meaning))
  )));
  byId("confirm").addEventListener("click", confirmMarks);
  byId("not-found").addEventListener("click", () => giveClick(null));
  byId("undo").addEventListener("click", undo);
  byId("undo-last").addEventListener("click", undo);
  byId("skip").addEventListener("click", skip);
  byId("comment").maxLength = plan.maxComment;
  byId("comment-button").addEventListener("click", () => (byId("comment").hidden ? openComment() : closeComment()));
}
