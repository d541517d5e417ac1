// Two sounds run together, one of them muted, so that what is heard changes at the same moment.
// `element` stays while its inside is replaced: events are listened to here.
const one = (selector) => element.querySelector(selector);
const both = () => [...element.querySelectorAll("audio")]; // before, after; none while there is no result
const heard = () => both().find((audio) => !audio.muted);
const silent = () => both().find((audio) => audio.muted);
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const APART = 0.05; // seconds that the two may drift

function draw() {
  const audio = heard();
  if (!audio) return;
  const play = one(".nr-play");
  play.textContent = audio.paused ? "\u25B6\uFE0E" : "\u23F8\uFE0E";
  play.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
  one(".nr-seek").value = audio.currentTime;
  one(".nr-time").textContent = `${clock(audio.currentTime)} / ${clock(audio.duration || 0)}`;
  for (const name of ["before", "after"]) {
    one(`[data-nr=${name}]`).setAttribute("aria-pressed", String(audio.classList.contains(`nr-${name}`)));
  }
}

function together() {
  if (Math.abs(silent().currentTime - heard().currentTime) > APART) silent().currentTime = heard().currentTime;
}

element.addEventListener("click", async (event) => {
  const action = event.target.closest("[data-nr]")?.dataset.nr;
  if (action === "play") {
    if (heard().paused) {
      together();
      await Promise.all(both().map((audio) => audio.play()));
    } else {
      both().forEach((audio) => audio.pause());
    }
  } else if (action === "before" || action === "after") {
    together();
    both().forEach((audio) => (audio.muted = !audio.classList.contains(`nr-${action}`)));
  }
  draw();
});

element.addEventListener("input", (event) => {
  if (event.target.dataset.nr !== "seek") return;
  both().forEach((audio) => (audio.currentTime = event.target.value));
  draw();
});

// Events of media do not bubble. A sound that begins late is caught up with as it plays.
element.addEventListener("timeupdate", (event) => event.target === heard() && together(), true);
for (const name of ["timeupdate", "play", "pause", "ended", "loadedmetadata"]) element.addEventListener(name, draw, true);

watch("value", () => {
  if (!heard()) return;
  both().forEach((audio) => (audio.muted = audio.classList.contains("nr-before")));
  draw();
});
