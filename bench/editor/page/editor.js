import { Stroke, bytesOf, fromBase64, same } from "./brush.js";
import { coloured, outline, paint, paintMarks } from "./picture.js";

const $ = (id) => document.getElementById(id);
const UNDO_STEPS = 60, DRAFTS = 40;

// What is fixed (session, colours), what is shown (k, draft), and the work on each image that was opened in this tab.
let session, colours, k = -1, draft = null;
const drafts = new Map();
const brush = { remove: false, inverted: false, x: 0, y: 0, over: false };
const held = { bare: false, own: false };
let stroke = null;
const otherTabs = new BroadcastChannel("cambench-attention-editor");

// --- the server

class Refusal extends Error {
  constructor(status, body) {
    super(body.error ?? `The editor answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("The editor does not answer: it was closed. What you drew is still in this tab; start it again, then save.");
  }
  if (answer.status === 403) {
    throw new Error("The editor was started anew: open the address that it printed in another tab of this browser, then save here. What you drew is still in this tab.");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, content);
  return content;
}

function notice(text, bad = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

const complain = (error) => notice(error.message, true);
const clock = (when) => new Date(when).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// --- images

async function open(position) {
  if (position < 0 || position >= session.images.length || position === k) return;
  endStroke();
  k = position;
  draft = drafts.get(k) ?? null;
  stayInView();
  notice("");
  if (draft) return show();
  $("board").classList.add("busy");
  try {
    const loaded = await load(position);
    if (position !== k) return;
    drafts.set(k, draft = loaded);
    forget();
    show();
  } catch (error) {
    if (position === k) complain(error);
  }
}

async function load(position) {
  const image = new Image();
  image.src = `/api/images/${position}/frame.png`;
  const [view] = await Promise.all([ask(`/api/images/${position}`), image.decode()]);
  session.images[position] = state(view);
  const start = fromBase64(view.map);
  return {
    image, k: position, item: view.item, label: view.label, className: view.class_name,
    own: fromBase64(view.own), values: Float32Array.from(start), start,
    revision: view.revision, truth: outline(view.mask && fromBase64(view.mask), view.boxes, session.size),
    hasTruth: Boolean(view.mask || view.boxes?.length), outcome: view.outcome, undo: [], redo: [], asking: false, again: false,
  };
}

// Drop the oldest images that have nothing unsaved: hundreds of them, with their undo steps, fill the memory.
function forget() {
  for (const [position, d] of drafts) {
    if (drafts.size <= DRAFTS) return;
    if (d !== draft && !d.saving && !changed(d)) drafts.delete(position);
  }
}

const state = ({ item, revision, when, source, damaged }) => ({ item, revision, when, source, damaged });
const changed = (d) => !same(bytesOf(d.values), d.start);

function show() {
  $("board").classList.remove("busy");
  $("title").textContent = draft.className;
  $("item").textContent = `${draft.item} · ${k + 1} of ${session.images.length}`;
  $("truth").disabled = !draft.hasTruth;
  showOutcome();
  showState();
  const { damaged } = session.images[k];
  if (damaged) notice(`${damaged} When you save here, that file is kept in the folder's history.`, true);
  fit();
  if (!same(bytesOf(draft.values), draft.own)) infer(draft);
}

// --- drawing

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (draft) drawNow();
  });
}

function drawNow() {
  const opacity = held.bare ? 0 : $("opacity").value / 100;
  const lut = colours[$("colours").value];
  if ($("grid").checked && !held.own) {
    const { height, width, values } = draft.outcome.attention;
    paint($("picture"), draft.image, coloured(fromBase64(values), width, height, lut, opacity), false);
  } else {
    const values = held.own ? draft.own : draft.values;
    paint($("picture"), draft.image, coloured(values, session.size, session.size, lut, opacity));
  }
  const circle = brush.over && !held.bare && !held.own ? { ...brush, ...brushNow() } : null;
  paintMarks($("marks"), session.size, $("truth").checked && draft.hasTruth ? draft.truth : null, circle);
}

function fit() {
  const room = $("room").getBoundingClientRect();
  const side = Math.max(120, Math.floor(Math.min(room.width, room.height || room.width, Math.max(512, 8 * session.size))));
  $("board").style.width = $("board").style.height = `${side}px`;
  for (const canvas of [$("picture"), $("marks")]) canvas.width = canvas.height = Math.round(side * devicePixelRatio);
  redraw();
}

// --- the brush

const brushNow = () => ({
  radius: Number($("radius").value), soft: $("soft").value / 100, strength: $("strength").value / 100,
  remove: brush.remove !== brush.inverted,
});

function point(event) {
  const box = $("marks").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * session.size, (event.clientY - box.top) / box.height * session.size];
}

function startStroke(event) {
  if (!draft || stroke || (event.button !== 0 && event.button !== 2) || held.own) return;
  $("marks").setPointerCapture(event.pointerId);
  brush.inverted = event.shiftKey || event.button === 2;
  [brush.x, brush.y] = point(event);
  stroke = new Stroke(draft.values, session.size, brushNow());
  stroke.line(brush.x, brush.y, brush.x, brush.y);
  notice("");
  redraw();
  infer(draft);
}

function moveBrush(event) {
  if (!session) return;
  brush.over = true;
  if (!stroke) brush.inverted = event.shiftKey;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const one of events.length ? events : [event]) {
    const [x, y] = point(one);
    stroke?.line(brush.x, brush.y, x, y);
    [brush.x, brush.y] = [x, y];
  }
  redraw();
  if (stroke) infer(draft);
}

function endStroke() {
  if (!stroke) return;
  const before = stroke.before;
  stroke = null;
  brush.inverted = false;
  if (!same(before, draft.values)) remember(bytesOf(before));
  changedNow();
}

function remember(before) {
  draft.undo.push(before);
  if (draft.undo.length > UNDO_STEPS) draft.undo.shift();
  draft.redo.length = 0;
}

function changedNow() {
  showState();
  redraw();
  infer(draft);
}

function replace(values) {
  if (!draft || stroke || same(bytesOf(draft.values), values)) return;
  remember(bytesOf(draft.values));
  draft.values = Float32Array.from(values);
  changedNow();
}

function step(from, to) {
  if (!draft || stroke || !draft[from].length) return;
  draft[to].push(bytesOf(draft.values));
  draft.values = Float32Array.from(draft[from].pop());
  changedNow();
}

const undo = () => step("undo", "redo");
const redo = () => step("redo", "undo");
const reset = () => draft && replace(draft.own);
const clear = () => draft && replace(new Uint8Array(draft.values.length));

function setRemove(remove) {
  brush.remove = remove;
  $("add").setAttribute("aria-pressed", !remove);
  $("remove").setAttribute("aria-pressed", remove);
  redraw();
}

// --- what the network makes of it

// One request at a time per image; what changes meanwhile is asked once more at its end.
async function infer(d) {
  if (d.asking) {
    d.again = true;
    return;
  }
  d.asking = true;
  try {
    do {
      d.again = false;
      d.outcome = await ask(`/api/images/${d.k}/infer`, bytesOf(d.values));
      if (d === draft) showOutcome();
    } while (d.again);
  } catch (error) {
    if (d === draft) complain(error);
  } finally {
    d.asking = false;
  }
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

function bars(parent, before, after) {
  parent.querySelector("i.before").style.width = `${100 * before}%`;
  parent.querySelector("i.after").style.width = `${100 * after}%`;
}

function showOutcome() {
  const { before, after, classes } = draft.outcome;
  const energy = $("energy");
  energy.querySelector(".bars").hidden = after.energy === null;
  bars(energy, before.energy ?? 0, after.energy ?? 0);
  energy.querySelector("span").textContent = before.energy === null ? "no truth" : percent(before.energy);
  energy.querySelector("strong").textContent = after.energy === null ? "–" : percent(after.energy);
  $("classes").replaceChildren(...classes.map(classRow));
  const now = classes.find(({ label }) => label === after.predicted);
  const taken = before.predicted === after.predicted ? "Taken" : "Now taken";
  $("verdict").textContent = after.predicted === draft.label ? "" : `${taken} for ${now.name}.`;
  if ($("grid").checked) redraw();
}

function classRow({ label, name, before, after }) {
  const row = document.createElement("li");
  row.innerHTML = '<p><span></span><span></span></p><div class="bars"><i class="before"></i><i class="after"></i></div>';
  const [title, numbers] = row.querySelectorAll("span");
  title.textContent = title.title = name;
  if (label === draft.label) {
    title.className = "label";
    title.title += " (the image's class)";
  }
  numbers.textContent = `${percent(before)} → ${percent(after)}`;
  bars(row, before, after);
  row.dataset.label = label;
  row.dataset.after = after;
  return row;
}

// --- saving

// The word for an image's state: it is a class name, too.
function stateOf(position) {
  const d = drafts.get(position);
  if (d && changed(d)) return "changed";
  const { source, damaged } = session.images[position];
  if (damaged) return "damaged";
  if (!source) return "none";
  return source === "editor" ? "saved" : "simulated";
}

function stateText(position) {
  const { when, revision, source } = session.images[position];
  const base = revision ? `, last saved ${clock(when)}` : "";
  return {
    changed: `Unsaved changes${base}`,
    damaged: "The saved map cannot be read: the model's map",
    none: "Not drawn yet: the model's map",
    saved: `Saved ${when ? clock(when) : ""}, version ${revision}`,
    simulated: `Simulated from ${source?.split(":")[1]}, not drawn by a person`,
  }[stateOf(position)];
}

function showState() {
  $("state").textContent = draft?.saving ? "Saving …" : stateText(k);
  $("state").className = stateOf(k);
  $("undo").disabled = !draft?.undo.length;
  $("redo").disabled = !draft?.redo.length;
  mark(k);
  const done = session.images.filter((one) => one.source === "editor").length;
  $("count").textContent = `${done} of ${session.images.length} saved`;
  $("progress").firstElementChild.style.width = `${100 * done / session.images.length}%`;
  document.title = `${stateOf(k) === "changed" ? "● " : ""}${k + 1}/${session.images.length} Attention editor`;
}

function mark(position) {
  const button = $("queue").children[position].firstElementChild;
  button.className = stateOf(position);
  button.title = `${session.images[position].item}: ${stateText(position)}`;
}

async function save() {
  const d = draft;
  if (!d || d.saving || stroke) return false;
  const bytes = bytesOf(d.values);
  d.saving = true;
  showState();
  try {
    const saved = await ask(`/api/images/${d.k}/map?base=${d.revision}`, bytes);
    settle(d, saved, bytes);
    if (d === draft) notice(saved.set_aside ? `Saved; the file that could not be read is kept as ${saved.set_aside}.` : "");
    return true;
  } catch (error) {
    if (error.status === 409) {
      d.saving = false;
      showState();
      return await resolve(d, error.body);
    }
    complain(error);
    return false;
  } finally {
    d.saving = false;
    showState();
  }
}

function settle(d, saved, bytes) {
  d.start = bytes;
  d.revision = saved.revision;
  session.images[d.k] = state(saved);
  mark(d.k);
  otherTabs.postMessage({ folder: session.folder, position: d.k, ...state(saved) });
}

// Somebody else has saved this image since it was opened here: show both and let the person choose.
async function resolve(d, { current, kept }) {
  const lut = colours[$("colours").value];
  const theirs = fromBase64(current.map);
  session.images[d.k] = state(current);
  $("conflict-text").textContent =
    `Version ${current.revision} was saved at ${clock(current.when)}; yours was begun from ` +
    `${d.revision ? `version ${d.revision}` : "the model's map"}. Yours is kept as ${kept}.`;
  $("theirs-when").textContent = clock(current.when);
  for (const [id, values] of [["mine", d.values], ["theirs", theirs]]) {
    $(id).width = $(id).height = 280;
    paint($(id), d.image, coloured(values, session.size, session.size, lut, 0.7));
  }
  const choice = await asked($("conflict"));
  if (choice === "mine") {
    d.revision = current.revision;
    return draft === d && save();
  }
  if (choice === "theirs") take(d, theirs, current);
  return choice === "theirs";
}

function take(d, bytes, saved) {
  d.undo.push(bytesOf(d.values));
  d.redo.length = 0;
  d.values = Float32Array.from(bytes);
  d.start = bytes;
  d.revision = saved.revision;
  session.images[d.k] = state(saved);
  mark(d.k);
  if (d === draft) changedNow();
}

function asked(dialog) {
  dialog.returnValue = "later";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue), { once: true }));
}

// Another tab of this browser has saved: an image untouched here follows it; one changed here is asked about on saving.
otherTabs.onmessage = async ({ data }) => {
  if (!session || data.folder !== session.folder) return;
  const d = drafts.get(data.position);
  session.images[data.position] = state(data);
  if (d && changed(d)) {
    if (d === draft) notice(`This image was saved in another tab at ${clock(data.when)}.`);
  } else if (d) {
    try {
      const view = await ask(`/api/images/${data.position}`);
      if (!changed(d) && !(stroke && d === draft)) take(d, fromBase64(view.map), view);
    } catch (error) {
      complain(error);
    }
  }
  mark(data.position);
  showState();
};

async function saveAndGo() {
  if (await save()) open(k + 1);
}

function openUnsaved() {
  const n = session.images.length;
  for (let i = 1; i <= n; i++) {
    if (["none", "simulated", "damaged"].includes(stateOf((k + i) % n))) return open((k + i) % n);
  }
  notice("Every image has been drawn.");
}

// --- the page

function makeQueue() {
  const items = session.images.map((one, position) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = new Image();
    image.loading = "lazy";
    image.alt = "";
    image.src = `/api/images/${position}/frame.png`;
    button.append(image, document.createElement("i"));
    button.addEventListener("click", () => open(position));
    item.append(button);
    return item;
  });
  $("queue").replaceChildren(...items);
  session.images.forEach((_, position) => mark(position));
}

function stayInView() {
  $("queue").querySelector("[aria-current=true]")?.removeAttribute("aria-current");
  const button = $("queue").children[k].firstElementChild;
  button.setAttribute("aria-current", "true");
  const queue = $("queue");
  queue.scrollLeft = button.offsetLeft - queue.offsetLeft - (queue.clientWidth - button.offsetWidth) / 2;
  $("previous").disabled = k === 0;
  $("next").disabled = k === session.images.length - 1;
}

function slide(id, amount) {
  $(id).value = Number($(id).value) + amount;
  $(id).dispatchEvent(new Event("input"));
}

const toggle = (id) => !$(id).disabled && $(id).click();

const KEYS = {
  a: () => setRemove(false), e: () => setRemove(true),
  "[": () => slide("radius", -session.size / 64), "]": () => slide("radius", session.size / 64),
  "{": () => slide("soft", -10), "}": () => slide("soft", 10),
  "-": () => slide("opacity", -10), "+": () => slide("opacity", 10), "=": () => slide("opacity", 10),
  r: reset, c: clear, s: save, enter: saveAndGo, u: openUnsaved,
  arrowleft: () => open(k - 1), arrowright: () => open(k + 1),
  t: () => toggle("truth"), g: () => toggle("grid"), "?": () => $("help").showModal(),
};
const WITH_CONTROL = { z: (event) => (event.shiftKey ? redo() : undo()), y: redo, s: save };

function onKey(event) {
  const control = event.ctrlKey || event.metaKey;
  if (!session || event.altKey || document.querySelector("dialog[open]") || event.target.matches("select")) return;
  const key = event.key.toLowerCase();
  if (!control && (key === " " || key === "m")) {
    held[key === "m" ? "own" : "bare"] = true;
    event.preventDefault();
    return redraw();
  }
  if (key === "shift" && !stroke) {
    brush.inverted = true;
    return redraw();
  }
  const action = (control ? WITH_CONTROL : KEYS)[key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

function onKeyUp(event) {
  const key = event.key.toLowerCase();
  if (key === " ") held.bare = false;
  if (key === "m") held.own = false;
  if (key === "shift" && !stroke) brush.inverted = false;
  redraw();
}

const SHOWN = {
  radius: (v) => `${v} px`, soft: (v) => `${v} %`, strength: (v) => `${v} %`, opacity: (v) => `${v} %`,
};

function wire() {
  for (const [id, text] of Object.entries(SHOWN)) {
    const write = () => { $(id).previousElementSibling.textContent = text($(id).value); redraw(); };
    $(id).addEventListener("input", write);
    $(id).addEventListener("change", () => $(id).blur());  // arrow keys go through the queue again
    write();
  }
  for (const id of ["colours", "truth", "grid"]) $(id).addEventListener("change", () => { $(id).blur(); redraw(); });
  const buttons = {
    add: () => setRemove(false), remove: () => setRemove(true), undo, redo, reset, clear, save, "save-next": saveAndGo,
    previous: () => open(k - 1), next: () => open(k + 1), "show-help": () => $("help").showModal(),
  };
  for (const [id, action] of Object.entries(buttons)) {
    $(id).addEventListener("click", () => { $(id).blur(); action(); });
  }
  const canvas = $("marks");
  canvas.addEventListener("pointerdown", startStroke);
  canvas.addEventListener("pointermove", moveBrush);
  canvas.addEventListener("pointerup", endStroke);
  canvas.addEventListener("pointercancel", endStroke);
  canvas.addEventListener("lostpointercapture", endStroke);
  canvas.addEventListener("pointerleave", () => { brush.over = false; redraw(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    slide("radius", -Math.sign(event.deltaY) * session.size / 96);
  }, { passive: false });
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", onKeyUp);
  addEventListener("blur", () => { held.bare = held.own = false; redraw(); });
  addEventListener("beforeunload", (event) => { if ([...drafts.values()].some(changed)) event.preventDefault(); });
  new ResizeObserver(() => draft && fit()).observe($("room"));
}

async function start() {
  history.replaceState(null, "", location.pathname);  // the token is in a cookie now, and need not be seen
  session = await ask("/api/session");
  colours = Object.fromEntries(Object.entries(session.colour_maps).map(([name, text]) => [name, fromBase64(text)]));
  $("colours").replaceChildren(...Object.keys(colours).map((name) => new Option(name)));
  $("facts").textContent = `${session.model} on ${session.subset} · ${session.folder}`;
  $("facts").title = `${session.looked_at} images looked at, ${session.right} right in class`;
  $("radius").max = Math.round(session.size / 2);
  $("radius").value = Math.round(session.size / 12);
  wire();
  makeQueue();
  await open(session.first);
}

start().catch(complain);
