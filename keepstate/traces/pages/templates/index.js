"use strict";
// Sorts, searches and filters the rows that are in the page. #folder=NAME, #runtime=NAME ... open it filtered.
const body = document.querySelector("tbody");
const more = document.getElementById("more");
const said = document.getElementById("said");
const search = document.getElementById("search");
const choices = [...document.querySelectorAll("[data-key]")];
const heads = [...document.querySelectorAll("thead th")];
const most = [...body.rows].findIndex((row) => row.classList.contains("late"));
let rows = [...body.rows].map((row) => ({ row, text: [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase() }));
let limit = most < 0 ? Infinity : most;
function apply() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = choices.filter((choice) => choice.value).map((choice) => [choice.dataset.key, choice.value]);
  let matched = 0;
  for (const { row, text } of rows) {
    const fits = words.every((word) => text.includes(word)) && wanted.every(([key, value]) => row.dataset[key].split("|").includes(value) || row.dataset[key] === value);
    matched += fits;
    row.classList.toggle("late", !fits || matched > limit);
  }
  said.textContent = `${matched.toLocaleString("en")} of ${rows.length.toLocaleString("en")} episodes match`;
  more.hidden = matched <= limit;
  more.textContent = `Show ${(matched - limit).toLocaleString("en")} more`;
}
function value(row, number) {
  const text = row.cells[number].textContent.trim();
  const figure = Number(text.replaceAll(",", ""));
  return text === "-" || text === "" ? null : Number.isNaN(figure) ? text : figure;
}
function sort(number) {
  const down = heads[number].getAttribute("aria-sort") === "ascending";
  heads.forEach((head, other) => other === number ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
  rows.forEach((each) => { each.key = value(each.row, number); });
  rows.sort(({ key: a }, { key: b }) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
    return down ? -order : order;
  });
  const sorted = document.createDocumentFragment();
  sorted.append(...rows.map(({ row }) => row));
  body.append(sorted);
  apply();
}
function open() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  choices.forEach((choice) => { if (wanted.has(choice.dataset.key)) choice.value = wanted.get(choice.dataset.key); });
  if (wanted.has("q")) search.value = wanted.get("q");
  apply();
}
heads.forEach((head, number) => head.querySelector("button").addEventListener("click", () => sort(number)));
choices.forEach((choice) => choice.addEventListener("change", apply));
search.addEventListener("input", apply);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => { limit = Infinity; apply(); });
addEventListener("hashchange", open);
open();
