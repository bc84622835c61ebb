// The annotation page: domains on the left, the path tree of the chosen one, sample pages; every mark is saved at once.

import { element, number, request, showSamples } from "./samples.js";
import { Tree } from "./tree.js";

const DOMAINS_SHOWN = 200;
const CHECK_EVERY = 1500; // milliseconds between checks of the annotation file
const $ = (id) => document.getElementById(id);

const state = { domains: [], host: "", shown: DOMAINS_SHOWN, version: "", sample: 0, errors: [], failure: "", lost: "", ticket: 0 };
const tree = new Tree($("tree"), chosen, fail);

function fail(error) {
  state.failure = error.message;
  showProblems();
}

function showProblems() {
  const sentences = [...state.errors.slice(0, 5), state.failure, state.lost].filter(Boolean);
  if (state.errors.length > 5) sentences.push(`${state.errors.length - 5} more lines cannot be read.`);
  $("problem").replaceChildren(...sentences.map((sentence) => element("p", {}, sentence)));
  $("problem").hidden = !sentences.length;
}

// Runs the action of a key or button; an error is shown until the next action succeeds.
async function act(action) {
  try {
    state.failure = "";
    await action();
    showProblems();
  } catch (error) {
    fail(error);
  }
}

// ---- domains

function matching() {
  const text = $("filter").value.trim().toLowerCase();
  return state.domains.filter((row) => row.host.includes(text));
}

function showDomains() {
  const rows = matching();
  const looked = state.domains.filter((row) => row.looked).length;
  $("progress").textContent = `${number(looked)} of ${number(state.domains.length)} domains looked at`;
  $("domain-list").replaceChildren(...rows.slice(0, state.shown).map(domainRow));
  $("more-domains").hidden = rows.length <= state.shown;
  if (!state.domains.length) $("domain-list").append("This corpus has no math-related domain.");
  else if (!rows.length) $("domain-list").append("No domain has this in its name.");
}

function domainRow(row) {
  const share = `${Math.round(100 * row.share)} %`;
  const looked = element("span", { className: "looked", title: "looked at", ariaLabel: row.looked ? "looked at" : "" });
  looked.textContent = row.looked ? "✓" : "";
  const button = element(
    "button", { type: "button", title: `${row.host}: ${number(row.undecided)} uncollected pages below no marked prefix` },
    element("div", { className: "host" }, element("span", {}, row.host), looked),
    element(
      "div", { className: "numbers" },
      element("span", {}, `${number(row.collected)} of ${number(row.pages)} (${share})`),
      element("span", {}, `${number(row.undecided)} to decide`),
    ),
  );
  button.dataset.host = row.host;
  if (row.host === state.host) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => act(() => openDomain(row.host)));
  return element("li", {}, button);
}

async function openDomain(host) {
  const answer = await request("domain", { host });
  state.host = host;
  $("paths-title").textContent = `Paths of ${host}`;
  take(answer);
  await tree.open(host, answer.tree);
  document.querySelector("#domain-list [aria-current]")?.scrollIntoView({ block: "nearest" });
  $("tree").focus();
}

function stepDomain(step) {
  const rows = matching();
  const next = rows[rows.findIndex((row) => row.host === state.host) + step];
  if (!next) return undefined;
  state.shown = Math.max(state.shown, rows.indexOf(next) + 1);
  return openDomain(next.host);
}

// Updates the state from an answer of the server.
function take(answer) {
  state.version = answer.version;
  state.errors = answer.errors;
  $("undo").disabled = !answer.undo;
  const index = state.domains.findIndex((row) => row.host === answer.host);
  if (index >= 0 && answer.domain) state.domains[index] = answer.domain;
  if (answer.host === state.host) tree.setMarks(answer.marks);
  showDomains();
  showChosen();
  showProblems();
}

// ---- the chosen prefix and its mark

function showChosen() {
  const node = tree.chosen;
  const { math, note, from } = node ? tree.decision(node.prefix) : { math: null, note: "", from: "" };
  const own = node !== null && from === node.prefix;
  $("chosen-prefix").textContent = node ? node.prefix : "";
  const word = math === null ? "Undecided" : math ? "Mathematics" : "Not mathematics";
  $("chosen-mark").textContent = node ? word + (own || !from ? "" : `, as ${from}`) : "No domain is chosen.";
  $("mark-math").setAttribute("aria-pressed", String(own && math === true));
  $("mark-not").setAttribute("aria-pressed", String(own && math === false));
  $("mark-none").setAttribute("aria-pressed", String(math === null));
  for (const id of ["mark-math", "mark-not", "mark-none", "another"]) $(id).disabled = !node;
  $("note").disabled = !own;
  if (document.activeElement !== $("note")) $("note").value = own ? note : "";
}

function chosen(node) {
  state.sample = 0;
  showChosen();
  if (node) return loadSamples().catch(fail);
  $("sample-list").replaceChildren();
  $("samples-about").textContent = "";
  return undefined;
}

// Only the answer to the last request is shown; a key that is held down sends one request at its end.
async function loadSamples() {
  const [node, ticket] = [tree.chosen, ++state.ticket];
  await new Promise((resolve) => setTimeout(resolve, 80));
  if (ticket !== state.ticket) return;
  const answer = await request("samples", { host: tree.host, prefix: node.prefix, number: state.sample });
  if (ticket === state.ticket) showSamples($("sample-list"), $("samples-about"), answer, node, fail);
}

async function mark(math, note) {
  const node = tree.chosen;
  if (!node) return;
  const body = { host: tree.host, prefix: node.prefix, math };
  take(await request("mark", null, note === undefined ? body : { ...body, note }));
  saved(math === null ? "Undecided" : "Saved");
}

async function undo() {
  const answer = await request("undo", null, {});
  if (answer.host !== state.host && state.domains.some((row) => row.host === answer.host)) await openDomain(answer.host);
  take(answer);
  await tree.reveal(answer.prefix);
  saved("Undone");
}

function saved(word) {
  $("status").textContent = `${word}, ${new Date().toLocaleTimeString("en-GB")}`;
}

function saveNote() {
  const node = tree.chosen;
  const { math, note, from } = tree.decision(node.prefix);
  const value = $("note").value;
  return from === node.prefix && value !== note ? mark(math, value) : undefined;
}

// ---- edits of the file

async function checkFile() {
  try {
    const answer = document.hidden ? null : await request("changes");
    if (answer && answer.version !== state.version) await reload();
    state.lost = "";
  } catch (error) {
    state.lost = error.message;
  }
  showProblems();
  setTimeout(checkFile, CHECK_EVERY);
}

async function reload() {
  const answer = await request("domains");
  state.domains = answer.domains;
  state.failure = ""; // it may have been about the old content of the file
  $("file").textContent = answer.file;
  take(state.host ? { ...(await request("domain", { host: state.host })) } : { ...answer, marks: [] });
}

// ---- keys and buttons

const KEYS = {
  j: () => tree.move(1), ArrowDown: () => tree.move(1), k: () => tree.move(-1), ArrowUp: () => tree.move(-1),
  ArrowRight: () => tree.right(), ArrowLeft: () => tree.left(),
  m: () => mark(true), n: () => mark(false), u: () => mark(null), z: undo,
  s: another, "]": () => stepDomain(1), "[": () => stepDomain(-1),
  e: () => $("note").focus(), "/": () => $("filter").focus(), "?": () => $("help").showModal(),
};

function another() {
  state.sample += 1;
  return loadSamples();
}

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (target instanceof HTMLInputElement) {
    if (event.key === "Escape" && target.id === "note") target.value = tree.decision(tree.chosen.prefix).note;
    if (event.key === "Enter" || event.key === "Escape") $("tree").focus();
    return;
  }
  // Arrows scroll a focused text.
  if (event.key.startsWith("Arrow") && target.closest("#sample-list, #problem")) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  act(action);
});

$("mark-math").addEventListener("click", () => act(() => mark(true)));
$("mark-not").addEventListener("click", () => act(() => mark(false)));
$("mark-none").addEventListener("click", () => act(() => mark(null)));
$("undo").addEventListener("click", () => act(undo));
$("another").addEventListener("click", () => act(another));
$("note").addEventListener("change", () => act(saveNote));
$("help-button").addEventListener("click", () => $("help").showModal());
$("more-domains").addEventListener("click", () => { state.shown += DOMAINS_SHOWN; showDomains(); });
$("filter").addEventListener("input", () => { state.shown = DOMAINS_SHOWN; showDomains(); });

await act(reload);
if (state.domains.length) await act(() => openDomain(state.domains[0].host));
checkFile();
