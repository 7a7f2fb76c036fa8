"use strict";
// The table of episodes: sorted, filtered, a slice at a time. Words of others are only ever text, never markup.
(() => {
  const SLICE = 100, MOST_CHOICES = 200, ANY = "any";
  const { columns, texts, rows } = JSON.parse(document.getElementById("episodes-data").textContent);
  const place = document.getElementById("episodes-table");
  const said = (row, at) => row[at] === null ? "" : columns[at][1] ? row[at] : texts[row[at]];
  const shown = (row, at) => {
    const value = said(row, at);
    return typeof value !== "number" ? value
      : columns[at][0] === "score" ? value.toFixed(3) : value.toLocaleString("en", { useGrouping: columns[at][0] !== "seed" });
  };
  const make = (tag, parent, words = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = words;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  };

  const chosen = columns.map(() => ANY);
  let order = { at: null, sign: 1 }, from = 0, found = rows, searched = "";

  const filters = make("div", place, "", { class: "filters", role: "search", "aria-label": "Filter episodes" });
  const search = make("input", make("label", filters, "task holds"), "", { type: "search" });
  search.addEventListener("input", () => { searched = search.value.toLowerCase(); select(); });
  columns.forEach(([title, numeric], at) => {
    const values = numeric ? [] : [...new Set(rows.map((row) => said(row, at)))].sort();
    if (title === "task" || values.length < 2 || values.length > MOST_CHOICES) return;
    const choice = make("select", make("label", filters, title));
    make("option", choice, ANY, { value: ANY });
    for (const value of values) make("option", choice, value || "none", { value: `=${value}` });
    choice.addEventListener("change", () => { chosen[at] = choice.value; select(); });
  });

  const pager = make("div", place, "", { class: "pager" });
  const before = make("button", pager, "Previous", { type: "button" });
  const after = make("button", pager, "Next", { type: "button" });
  const status = make("span", pager, "", { role: "status" });
  before.addEventListener("click", () => { from -= SLICE; draw(); });
  after.addEventListener("click", () => { from += SLICE; draw(); });

  const scroll = make("div", place, "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rows of episodes" });
  const table = make("table", scroll);
  const head = make("tr", make("thead", table));
  const heads = columns.map(([title, numeric], at) => {
    const cell = make("th", head, "", { scope: "col", class: numeric ? "" : "text" });
    make("button", cell, title, { type: "button" }).addEventListener("click", () => {
      order = { at, sign: order.at === at ? -order.sign : 1 };
      select();
    });
    return cell;
  });
  const body = make("tbody", table);

  function compare(one, other) {
    if (order.at === null) return 0; // as the report has them
    const [a, b] = [said(one, order.at), said(other, order.at)];
    if (a === b) return 0;
    if (a === "" || b === "") return a === "" ? 1 : -1; // what is not known comes last
    return order.sign * (a < b ? -1 : 1);
  }

  function select() {
    const task = columns.findIndex(([title]) => title === "task");
    found = rows.filter((row) => said(row, task).toLowerCase().includes(searched)
      && chosen.every((value, at) => value === ANY || value === `=${said(row, at)}`)).sort(compare);
    from = 0;
    draw();
  }

  function draw() {
    heads.forEach((cell, at) => cell.setAttribute("aria-sort", at !== order.at ? "none" : order.sign > 0 ? "ascending" : "descending"));
    const slice = found.slice(from, from + SLICE), lines = document.createDocumentFragment();
    for (const row of slice) {
      const line = make("tr", lines);
      columns.forEach(([title, numeric], at) => {
        const page = title === "task" ? texts[row[columns.length]] : undefined;
        const cell = make(at ? "td" : "th", line, page ? "" : shown(row, at), at ? { class: numeric ? "" : "text" } : { scope: "row" });
        if (page) make("a", cell, shown(row, at), { href: `traces/${page}` });
      });
    }
    body.replaceChildren(lines);
    before.disabled = from === 0;
    after.disabled = from + SLICE >= found.length;
    const number = (value) => value.toLocaleString("en");
    status.textContent = found.length ? `${number(from + 1)} to ${number(from + slice.length)} of ${number(found.length)}` : "no episode";
  }

  select();
})();
