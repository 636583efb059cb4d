// The matrix: a grid of which only the visible part exists. Namespaces fold rows and columns. One tab stop; arrow keys move the
// active cell, which the grid names by aria-activedescendant.

import { CHANGES, STATES, ofMany, ofPatterns } from "./cells.js";
import { announce, byId, h } from "./dom.js";

const SMALL = 30; // Height of a cell, and its smallest width, pixels.
const MEDIUM = 46; // The largest width of a cell with only a sign.
const WIDE = [74, 150]; // The smallest and the largest width of a cell with a sign and ports.
const OVERSCAN = 4; // Cells beyond each edge.
const FOLD_FROM = 24; // Rows from which namespaces are folded at first.
const OUTSIDE = "outside"; // The group of addresses.

const grid = byId("grid");
let data = null; // The overview.
let callbacks = {};
let cells = []; // The cell of each pattern.
let folded = new Set();
let isFresh = true;
let rows = []; // What is shown of both axes: namespaces and rows.
let columns = [];
let active = [0, 0]; // -1 is the heading.
let width = SMALL;
let isWide = false;
let headWidth = 160;
let headHeight = 120;
let drawn = "";
let many = new Map(); // Cells of folded pairs.

const namespaceOf = (row) => row.namespace ?? OUTSIDE;

/** The items of an axis: each namespace, then its rows unless it is folded. */
const items = (filter) => {
  const wanted = filter.trim().toLowerCase();
  const groups = new Map();
  data.rows.forEach((row, at) => {
    const namespace = namespaceOf(row);
    if (wanted !== "" && !row.title.toLowerCase().includes(wanted) && !namespace.toLowerCase().includes(wanted)) return;
    if (!groups.has(namespace)) groups.set(namespace, []);
    groups.get(namespace).push(at);
  });
  return [...groups].flatMap(([name, members]) => {
    const isFolded = folded.has(name) && wanted === "";
    const group = { name, members, isFolded, isGroup: true };
    return isFolded ? [group] : [group, ...members.map((at) => ({ at, members: [at], name: data.rows[at].name }))];
  });
};

/** The cell of two items. */
const cellOf = (from, to) => {
  if (!from.isGroup && !to.isGroup) return cells[data.cells[from.at][to.at]];
  const key = `${from.isGroup ? from.name : from.at}\n${to.isGroup ? to.name : to.at}`;
  if (!many.has(key)) {
    const pairs = function* () {
      for (const source of from.members) for (const destination of to.members) yield cells[data.cells[source][destination]];
    };
    many.set(key, ofMany(pairs()));
  }
  return many.get(key);
};

/** The cell of a pair of rows, on the port of the filter. */
export const pairCell = (from, to) => cells[data.cells[from][to]];

const title = (item) => item.isGroup ? (item.name === OUTSIDE ? "addresses outside the cluster" : `namespace ${item.name}`) : data.rows[item.at].label;

/** Shows an overview; the same namespaces stay folded. */
export const show = (overview, given) => {
  callbacks = given;
  data = overview;
  const namespaces = new Set(data.rows.map(namespaceOf));
  if (isFresh) {
    folded = new Set(data.rows.length >= FOLD_FROM ? namespaces : []);
    isFresh = false;
  }
  const select = byId("filter-port");
  const ports = new Set(data.rows.flatMap((row) => row.ports));
  const sorted = [...ports].sort((a, b) => parseInt(a, 10) - parseInt(b, 10) || a.localeCompare(b));
  const chosen = ports.has(select.value) ? select.value : "";
  select.replaceChildren(h("option", { value: "" }, "all"), ...sorted.map((port) => h("option", { value: port }, port)));
  select.value = chosen;
  layout();
};

const measure = document.createElement("canvas").getContext("2d");
const widest = (shown, font) => {
  measure.font = font;
  return Math.max(0, ...shown.map((item) => measure.measureText(item.name).width + (item.isGroup ? 64 : 62)));
};

/** Computes what is shown where, and draws it. */
const layout = () => {
  cells = ofPatterns(data.patterns, byId("filter-port").value);
  many = new Map();
  rows = items(byId("filter-from").value);
  columns = items(byId("filter-to").value);
  const font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
  headWidth = Math.round(Math.min(300, Math.max(120, widest(rows, font))));
  headHeight = Math.round(Math.min(190, Math.max(72, widest(columns, font) + 12)));
  const share = Math.floor((grid.clientWidth - headWidth - 2) / Math.max(1, columns.length));
  isWide = share >= WIDE[0];
  width = isWide ? Math.min(share, WIDE[1]) : Math.max(SMALL, Math.min(share, MEDIUM));
  if (isWide) headHeight = 48;
  active = [Math.min(active[0], rows.length - 1), Math.min(active[1], columns.length - 1)];
  grid.setAttribute("aria-rowcount", String(rows.length + 1));
  grid.setAttribute("aria-colcount", String(columns.length + 1));
  grid.classList.toggle("wide", isWide);
  grid.classList.toggle("changing", data.changes !== null);
  drawn = "";
  draw();
};

/** The first and the last visible position of an axis. */
const visible = (scroll, size, step, n) => [
  Math.max(0, Math.floor(scroll / step) - OVERSCAN),
  Math.min(n - 1, Math.ceil((scroll + size) / step) + OVERSCAN),
];

const id = (row, column) => `cell-${row}-${column}`;

const place = (element, left, top, itsWidth, itsHeight) => {
  const { style } = element;
  if (left !== null) style.left = `${left}px`;
  if (top !== null) style.top = `${top}px`;
  style.width = `${itsWidth}px`;
  style.height = `${itsHeight}px`;
  return element;
};

const heading = (item, role, position, attributes) => {
  const isColumn = role === "columnheader";
  const n = item.isGroup ? item.members.length : data.rows[item.at].n_pods;
  const count = item.isGroup ? `${n}` : n > 1 ? `×${n}` : "";
  const of = item.isGroup ? (n === 1 ? "1 workload" : `${n} workloads`) : n > 1 ? `${n} pods` : "";
  return h("div", {
    role, id: isColumn ? id(-1, position) : id(position, -1), class: item.isGroup ? "heading group" : "heading",
    "aria-expanded": item.isGroup ? String(!item.isFolded) : null, title: item.isGroup ? title(item) : data.rows[item.at].title, ...attributes,
    "aria-label": of === "" ? title(item) : `${title(item)}, ${of}`, "data-row": isColumn ? -1 : position, "data-column": isColumn ? position : -1,
  }, h("span", { class: "mark", "aria-hidden": "true" }, item.isGroup ? (item.isFolded ? "▸" : "▾") : ""),
  h("span", { class: "name" }, item.name), h("span", { class: "count" }, count));
};

const cell = (row, column) => {
  const [from, to] = [rows[row], columns[column]];
  const { state, change, words, ports, isPair, share } = cellOf(from, to);
  const isGroup = from.isGroup || to.isGroup;
  const element = h("div", {
    role: "gridcell", id: id(row, column), "aria-colindex": column + 2, "data-row": row, "data-column": column,
    class: `cell ${isPair ? state : "self"}${change ? ` change ${change}` : ""}${isGroup ? " many" : ""}`,
    "aria-label": `${title(from)} to ${title(to)}: ${change ? `${CHANGES[change].words}: ` : ""}${words}`,
    title: `${title(from)} → ${title(to)}\n${words}`,
  }, h("span", { class: "sign" }, isPair ? STATES[state].sign : STATES.self.sign));
  if (isWide && ports !== "") element.append(h("span", { class: "ports" }, ports));
  if (share !== undefined) {
    const bar = h("span", { class: "share" });
    bar.style.width = `${Math.round(share * 100)}%`;
    element.append(bar);
  }
  if (change) element.append(h("span", { class: "badge" }, CHANGES[change].sign));
  return place(element, headWidth + column * width, null, width, SMALL);
};

/** Draws the visible part, if it is another one than before. */
const draw = () => {
  if (!data) return;
  if (rows.length === 0 || columns.length === 0) {
    grid.replaceChildren(h("p", { class: "empty" }, data.rows.length === 0 ? "There is no pod and no workload." : "Nothing matches."));
    return;
  }
  const [top, bottom] = visible(grid.scrollTop, grid.clientHeight - headHeight, SMALL, rows.length);
  const [left, right] = visible(grid.scrollLeft, grid.clientWidth - headWidth, width, columns.length);
  const range = [top, bottom, left, right].join();
  if (range === drawn) return;
  drawn = range;
  const head = h("div", { role: "row", class: "row head", "aria-rowindex": 1 },
    place(h("div", { role: "columnheader", class: "corner", "aria-colindex": 1 }, h("span", {}, "from ↓"), h("span", {}, "to →")), null, null, headWidth, headHeight));
  for (let column = left; column <= right; column += 1) {
    const element = heading(columns[column], "columnheader", column, { "aria-colindex": column + 2 });
    head.append(place(element, headWidth + column * width, 0, width, headHeight));
  }
  place(head, null, null, headWidth + columns.length * width, headHeight);
  const body = [];
  for (let row = top; row <= bottom; row += 1) {
    const line = h("div", { role: "row", class: rows[row].isGroup ? "row group" : "row", "aria-rowindex": row + 2 },
      place(heading(rows[row], "rowheader", row, { "aria-colindex": 1 }), null, null, headWidth, SMALL));
    for (let column = left; column <= right; column += 1) line.append(cell(row, column));
    body.push(place(line, 0, headHeight + row * SMALL, headWidth + columns.length * width, SMALL));
  }
  const sizer = h("div", { class: "sizer", role: "presentation" }, head, ...body);
  grid.replaceChildren(place(sizer, null, null, headWidth + columns.length * width, headHeight + rows.length * SMALL));
  mark();
};

/** Marks the active cell. */
const mark = () => {
  for (const old of grid.querySelectorAll(".active, .hot")) old.classList.remove("active", "hot");
  const current = byId(id(...active));
  current?.classList.add("active");
  byId(id(active[0], -1))?.classList.add("hot");
  byId(id(-1, active[1]))?.classList.add("hot");
  if (current) grid.setAttribute("aria-activedescendant", current.id);
};

/** Makes a cell active and visible. */
const go = (row, column) => {
  active = [Math.max(-1, Math.min(row, rows.length - 1)), Math.max(-1, Math.min(column, columns.length - 1))];
  if (active[0] < 0 && active[1] < 0) active = [0, -1];
  const into = (position, step, scroll, size) =>
    position < 0 ? scroll : Math.max(Math.min(scroll, position * step), (position + 1) * step - size);
  grid.scrollTop = into(active[0], SMALL, grid.scrollTop, grid.clientHeight - headHeight);
  grid.scrollLeft = into(active[1], width, grid.scrollLeft, grid.clientWidth - headWidth);
  draw();
  mark();
};

const toggle = (item) => {
  if (folded.has(item.name)) folded.delete(item.name);
  else folded.add(item.name);
  const isRow = active[1] < 0;
  layout();
  const at = (isRow ? rows : columns).findIndex((other) => other.isGroup && other.name === item.name);
  if (at >= 0) go(isRow ? at : active[0], isRow ? active[1] : at);
  announce(`${title(item)} ${folded.has(item.name) ? "folded" : "unfolded"}`);
};

/** Enter, or a click. */
const choose = () => {
  const [row, column] = active;
  if (row < 0 || column < 0) {
    const item = row < 0 ? columns[column] : rows[row];
    if (item?.isGroup) toggle(item);
    return;
  }
  const [from, to] = [rows[row], columns[column]];
  const found = cellOf(from, to);
  if (!from.isGroup && !to.isGroup) callbacks.onPair(from.at, to.at, byId("filter-port").value);
  else callbacks.onMany(title(from), title(to), found, from.members, to.members, pairCell, byId("filter-port").value);
};

grid.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
new ResizeObserver(() => { if (data && grid.clientWidth > 0) layout(); }).observe(grid);
grid.addEventListener("click", (event) => {
  const target = event.target.closest("[data-row]");
  if (!target) return;
  active = [Number(target.dataset.row), Number(target.dataset.column)];
  mark();
  choose();
});
grid.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || rows.length === 0) return;
  const [row, column] = active;
  const page = Math.max(1, Math.floor((grid.clientHeight - headHeight) / SMALL) - 1);
  const [last, end] = [rows.length - 1, columns.length - 1];
  const to = {
    ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
    PageUp: [Math.max(0, row - page), column], PageDown: [row + page, column],
    Home: event.ctrlKey ? [0, -1] : [row, -1], End: event.ctrlKey ? [last, end] : [row, end],
  }[event.key];
  if (to) go(...to);
  else if (event.key === "Enter" || event.key === " ") choose();
  else return;
  event.preventDefault();
});
for (const name of ["filter-from", "filter-to", "filter-port"]) byId(name).addEventListener("input", () => layout());
byId("fold").addEventListener("click", () => { folded = new Set(data.rows.map(namespaceOf)); layout(); });
byId("unfold").addEventListener("click", () => { folded = new Set(); layout(); });
byId("legend").append(...Object.entries(STATES).filter(([name]) => name !== "self").map(([name, { sign, words }]) =>
  h("li", { title: words }, h("span", { class: `cell ${name}`, "aria-hidden": "true" }, sign), name === "depends" ? "depends" : name === "audit" ? "audit" : words)));
