"use strict";
// Moves between turns and chooses columns. Makes no element: all text is in the page already.
const turns = [...document.querySelectorAll(".turn")];
const said = document.getElementById("said");
const boxes = [...document.querySelectorAll("[data-shows]")];
function inView(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}
function current() {
  const focused = turns.indexOf(document.activeElement);
  if (focused >= 0 && inView(turns[focused])) return focused;
  let last = -1;
  turns.forEach((turn, number) => { if (turn.getBoundingClientRect().top < 40) last = number; });
  return last;
}
function go(number, words) {
  said.textContent = number < 0 || number >= turns.length ? words : "";
  if (!turns[number]) return;
  turns[number].scrollIntoView();
  turns[number].focus({ preventScroll: true });
}
const first = (what, from) => turns.findIndex((turn, number) => number >= from && turn.querySelector(`[data-${what}]:not([hidden])`));
const keys = {
  j: () => go(current() + 1, "this is the last turn"),
  k: () => go(current() - 1, "this is the first turn"),
  e: () => go(first("error", current() + 1), "no further error"),
  m: () => go(first("missing", 0), "no turn ended in a missing variable"),
};
keys.n = keys.j;
keys.p = keys.k;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input[type=search], select, textarea")) return;
  if (Object.hasOwn(keys, event.key)) { event.preventDefault(); keys[event.key](); }
});
function show() {
  const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.shows));
  document.querySelectorAll("[data-column]").forEach((cell) => { cell.hidden = !shown.has(cell.dataset.column); });
}
function choose() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("show");
  if (wanted) boxes.forEach((box) => { box.checked = wanted.split(",").includes(box.dataset.shows); });
  show();
}
if (boxes.length) {
  boxes.forEach((box) => box.addEventListener("change", show));
  addEventListener("hashchange", choose);
  choose();
}
