// What a cell shows: a sign, words, and how many connections are behind it. The verdicts are the server's; this only counts them.

/** Signs of the states, in the order of the legend. A colour always comes with its sign. */
export const STATES = {
  allow: { sign: "✓", words: "allowed" },
  deny: { sign: "✕", words: "denied" },
  some: { sign: "◐", words: "some allowed" },
  audit: { sign: "A", words: "allowed by audit mode only" },
  ipv4: { sign: "4", words: "IPv4 only" },
  ipv6: { sign: "6", words: "IPv6 only" },
  depends: { sign: "?", words: "depends on an address that is not known" },
  self: { sign: "·", words: "the same pod" },
};

export const CHANGES = {
  opens: { sign: "+", words: "opens" },
  closes: { sign: "−", words: "closes" },
  both: { sign: "±", words: "opens and closes" },
};

/** `80/TCP`, `1-79/TCP`, `any port`. */
export const portInWords = ({ protocol, first, last }) => {
  if (protocol === null) return "any port";
  if (first === 1 && last === 65535) return `any ${protocol}`;
  return `${first === last ? first : `${first}-${last}`}/${protocol}`;
};

export const verdictState = (verdict) =>
  verdict.enforced !== undefined && verdict.answer !== "deny" ? "audit" : verdict.answer;

/** Whether a verdict is about a port, such as `80/TCP`; every verdict is about the empty port. */
export const concerns = (verdict, port) => {
  if (port === "") return true;
  const [number, protocol] = port.split("/");
  return (verdict.protocol === null || verdict.protocol === protocol) &&
    verdict.first <= Number(number) && Number(number) <= verdict.last;
};

/** The state that these states have together. */
const together = (states) => {
  if (states.size === 0) return "self";
  return states.size === 1 ? [...states][0] : "some";
};

const changesTogether = (changes) => {
  if (changes.has("both") || changes.size > 1) return "both";
  return changes.size === 1 ? [...changes][0] : null;
};

/** The cell of each pattern, on one port or on all. */
export const ofPatterns = (patterns, port) => patterns.map((pattern) => {
  const verdicts = pattern.filter((verdict) => concerns(verdict, port));
  const states = new Set(verdicts.map(verdictState));
  const open = verdicts.filter((verdict) => verdict.answer !== "deny");
  const change = changesTogether(new Set(verdicts.map((verdict) => verdict.change).filter(Boolean)));
  const words = verdicts.map((verdict) => {
    const before = verdict.before === undefined ? "" : `, before ${STATES[verdict.before].words}`;
    return `${portInWords(verdict)} ${STATES[verdictState(verdict)].words}${before}`;
  });
  return {
    state: together(states), change, verdicts,
    ports: open.map((verdict) => portInWords(verdict).replace("/TCP", "")).join(" "),
    words: words.length === 0 ? (pattern.length === 0 ? "the same pod" : "no such port") : words.join("; "),
    isOpen: open.length > 0, isPair: verdicts.length > 0,
  };
});

/** The cell of many pairs. */
export const ofMany = (cells) => {
  const [states, changes] = [new Set(), new Set()];
  let [nOpen, nPairs, first] = [0, 0, null];
  for (const cell of cells) {
    if (!cell.isPair) continue;
    states.add(cell.state);
    if (cell.change) changes.add(cell.change);
    nPairs += 1;
    first ??= cell;
    nOpen += Number(cell.isOpen);
  }
  if (nPairs === 1) return first;
  const state = together(states);
  const words = nPairs === 0 ? "no connections" :
    state === "some" ? `${nOpen} of ${nPairs} pairs reach each other on some port` :
    `all ${nPairs} pairs: ${STATES[state].words}`;
  const ports = state === "some" ? `${nOpen} of ${nPairs}` : "";
  return { state, change: changesTogether(changes), words, ports, isPair: nPairs > 0, isOpen: nOpen > 0, share: state === "some" ? nOpen / nPairs : undefined };
};
