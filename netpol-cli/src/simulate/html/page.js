"use strict";
const table = document.querySelector("table");
const body = table.tBodies[0];
const headings = [...table.tHead.rows[0].cells];
const details = JSON.parse(document.getElementById("details").textContent);
const panel = document.querySelector("footer");

// The reason for the cell under the pointer or with the focus.
const show = (target) => {
  const cell = target.closest && target.closest("td, tbody th");
  if (!cell) return;
  const text = details[cell.dataset.d];
  const row = cell.parentElement.cells[0];
  const isPair = table.dataset.kind === "matrix" && row !== cell;
  const pair = !isPair ? "" :
    row.textContent + " \u2192 " + headings[cell.cellIndex].textContent + "\n";
  if (text !== undefined) panel.textContent = pair + text;
};
body.addEventListener("pointerover", (event) => show(event.target));
body.addEventListener("focusin", (event) => show(event.target));

// A click on a heading sorts by its column; a second one reverses the order.
const key = (row, at) => {
  const cell = row.cells[at];
  return cell.dataset.s === undefined ? cell.textContent : Number(cell.dataset.s);
};
table.tHead.addEventListener("click", (event) => {
  const heading = event.target.closest("th");
  if (!heading || !event.target.closest("button")) return;
  const at = heading.cellIndex;
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of headings) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const compare = (one, other) => {
    const [a, b] = [key(one, at), key(other, at)];
    const order = typeof a === "number" && typeof b === "number" ? a - b :
      String(a).localeCompare(String(b), "en", { numeric: true });
    return ascending ? order : -order;
  };
  for (const row of [...body.rows].sort(compare)) body.append(row);
});

// In a matrix the names of rows are compared, and those of columns if no row has the text; in a list of changes whole rows.
const filter = document.querySelector("input");
filter.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  const isMatrix = table.dataset.kind === "matrix";
  const has = (text) => text.toLowerCase().includes(wanted);
  const columns = headings.map((heading, at) => at === 0 || !isMatrix || has(heading.textContent));
  const anyColumn = columns.some((is, at) => at > 0 && is);
  const anyRow = [...body.rows].some((row) => has(row.cells[0].textContent));
  for (const row of body.rows) {
    const name = isMatrix ? row.cells[0].textContent : row.textContent;
    row.hidden = isMatrix ? anyRow && !has(name) : !has(name);
  }
  if (!isMatrix) return;
  const all = anyRow || !anyColumn;
  for (const row of table.rows) {
    for (const cell of row.cells) cell.hidden = !all && !columns[cell.cellIndex];
  }
});

// One cell is in the tab order; arrows move within the table.
let current = null;
const focus = (cell) => {
  if (!cell) return;
  if (current) current.tabIndex = -1;
  current = cell;
  cell.tabIndex = 0;
  cell.focus();
};
const visible = (cells) => [...cells].filter((cell) => !cell.hidden);
body.addEventListener("keydown", (event) => {
  const cell = event.target.closest("td, th");
  if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
  const row = cell.parentElement;
  const rows = visible(body.rows);
  const cells = visible(row.cells);
  const [y, x] = [rows.indexOf(row), cells.indexOf(cell)];
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    PageUp: [-10, 0], PageDown: [10, 0], Home: [0, -x], End: [0, cells.length - 1 - x] }[event.key];
  if (!step) return;
  event.preventDefault();
  const to = rows[Math.min(Math.max(y + step[0], 0), rows.length - 1)];
  focus(visible(to.cells)[Math.min(Math.max(x + step[1], 0), cells.length - 1)]);
});
body.addEventListener("click", (event) => focus(event.target.closest("td, th")));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === filter) return;
  event.preventDefault();
  filter.focus();
});
current = body.rows[0]?.cells[0];
if (current) current.tabIndex = 0;
