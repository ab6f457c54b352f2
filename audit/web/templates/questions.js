// Shows a question: its picture, what is asked, and what can be answered.

const NAMES = { right: "Right", several: "True of several", untrue: "Untrue", not_an_object: "Not an object", cannot_say: "Cannot say" };
const TASKS = {
  verdict: ["Does the text fit what is outlined?", ""],
  missed: ["Click each object that has no outline", "One click an object. Click it too if less than half of it is outlined. A part of an outlined object is not missed."],
};

function setBusy(value) {
  isBusy = value;
  byId("judge").setAttribute("aria-busy", String(value));
  for (const button of document.querySelectorAll("#answers button")) button.disabled = value;
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
  const isMissed = question.pair === undefined;
  const image = question.pair?.image ?? question.image;
  // The outlines of the question before do not belong to this picture.
  showOutlines([]);
  showWords(question);
  const paths = plan.outlines[question.pair?.id ?? image];
  const isShown = await showPicture(image);
  askMarks(isMissed);
  byId("absent").hidden = isShown;
  showOutlines(isShown ? paths : [], { isMany: isMissed });
  if (paths.some((path) => !path)) tell("An outline of this picture is damaged and cannot be shown.");
  shownAt = performance.now();
  isAsked = true;
  setBusy(!isShown);
}

function showWords({ pair }) {
  const isMissed = pair === undefined;
  const [task, hint] = isMissed ? TASKS.missed : TASKS.verdict;
  byId("task").textContent = pair?.follows === undefined ? task : "Another text for the same outline: does it fit?";
  byId("hint").textContent = hint;
  byId("hint").hidden = !hint;
  byId("text").textContent = pair?.text ?? "";
  byId("text").hidden = isMissed;
  byId("text").scrollTop = 0;
  byId("answers").hidden = isMissed;
  byId("confirm").hidden = !isMissed;
  stage.classList.remove("is-bare");
  byId("outline-button").setAttribute("aria-pressed", "true");
  closeComment();
}

function showPointing() {
  const number = marks.points.length;
  byId("confirm").lastElementChild.textContent = number ? `Done: ${number} missed` : "Nothing is missed";
  byId("confirm").disabled = isBusy;
  if (number) byId("undo").disabled = isBusy;
}

function showProgress() {
  const { pairs, images } = progressOf(state);
  byId("progress").max = Math.max(1, roots.length + plan.missed.length);
  byId("progress").value = pairs + images;
  const isPair = current?.pair !== undefined || current === null;
  byId("count").textContent = isPair ? `${pairs} of ${roots.length} texts` : `${images} of ${plan.missed.length} pictures`;
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
  byId("confirm").addEventListener("click", giveMissed);
  byId("undo").addEventListener("click", undo);
  byId("undo-last").addEventListener("click", undo);
  byId("skip").addEventListener("click", skip);
  byId("comment").maxLength = plan.maxComment;
  byId("comment-button").addEventListener("click", () => (byId("comment").hidden ? openComment() : closeComment()));
}
