// A stretch of the talk: dragged over its waveform, or set with two sliders.
const inputs = () => [...element.querySelectorAll("input")];
const seconds = () => Number(props.value.seconds);
let first = null;

function mark(a, b) {
  const [from, to] = [a, b].map((s) => Math.round(100 * Math.min(Math.max(s, 0), seconds())) / 100).sort((x, y) => x - y);
  props.value = { ...props.value, from, to };
  inputs().forEach((input, i) => (input.value = [from, to][i]));
  trigger("change");
}

const at = (event) => {
  const box = element.querySelector("svg").getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * seconds();
};

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest("svg")) return;
  event.preventDefault();
  first = at(event);
});
window.addEventListener("pointermove", (event) => first !== null && mark(first, at(event)));
window.addEventListener("pointerup", () => (first = null));
window.addEventListener("pointercancel", () => (first = null));
element.addEventListener("input", () => {
  const [from, to] = inputs().map((input) => Number(input.value));
  mark(from, to);
});
watch("value", () => inputs().forEach((input, i) => (input.value = [props.value.from, props.value.to][i])));
