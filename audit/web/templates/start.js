// Begins: the rater's name from the address or from the form, then the first question.

const RATER = new RegExp(`^(?:${plan.rater})$`);

function start(name) {
  if (!RATER.test(name)) {
    tell("A name has 1 to 32 of the letters a-z, digits, dots, _ and -. The first is a letter or a digit.");
    return;
  }
  // A reload goes on as the same rater.
  const address = new URL(location.href);
  address.searchParams.set("rater", name);
  history.replaceState(null, "", address);
  byId("rater").textContent = name;
  tell("");
  begin(name).then(() => {
    for (const button of document.querySelectorAll(".download")) {
      button.hidden = false;
      button.addEventListener("click", storage.download);
    }
  }).catch((error) => {
    tell(error.message);
    show("start");
  });
}

byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("single-keys").checked = document.documentElement.dataset.keys !== "off";
document.addEventListener("keydown", onKey);
byId("start").addEventListener("submit", (event) => {
  event.preventDefault();
  start(byId("name").value.trim().toLowerCase().replace(/\s+/g, "-"));
});
listenToPanel();
listenToStage();
const given = new URLSearchParams(location.search).get("rater");
if (given === null) {
  show("start");
  byId("name").focus();
} else start(given);
