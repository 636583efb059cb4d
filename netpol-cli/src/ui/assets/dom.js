// Elements, requests and announcements. Every text that comes from the cluster becomes a text node or an attribute, never HTML.

/** An element with properties, `data-*`, `aria-*` and `on*` among them, and children. */
export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

/** The same for SVG. */
export const s = (tag, properties = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

const fill = (element, properties, children) => {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "disabled" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

export const byId = (id) => document.getElementById(id);

const answer = async (response) => {
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
};

/** The answer to a question without parameters. */
export const get = async (path) => answer(await fetch(path));

/** The answer to a question. */
export const ask = async (path, question) =>
  answer(await fetch(`${path}?q=${encodeURIComponent(JSON.stringify(question))}`));

/** The answer to a question with a long text. */
export const post = async (path, question) =>
  answer(await fetch(path, { method: "POST", body: JSON.stringify(question) }));

/** Says a sentence to a screen reader. */
export const announce = (text) => { byId("announcement").textContent = text; };

/** Makes the tabs of a list work: one is in the tab order, arrows go to the others. Returns a function that chooses one. */
export const tabs = (list, onChoice = () => {}) => {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (id) => {
    for (const tab of all) {
      const isChosen = tab.getAttribute("aria-controls") === id;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
    onChoice(id);
  };
  for (const tab of all) tab.addEventListener("click", () => choose(tab.getAttribute("aria-controls")));
  list.addEventListener("keydown", (event) => {
    const shown = all.filter((tab) => !tab.hidden);
    const at = shown.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const tab = shown[(to + shown.length) % shown.length];
    tab.focus();
    choose(tab.getAttribute("aria-controls"));
  });
  return choose;
};
