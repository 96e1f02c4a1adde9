import { Stroke, bytesOf, fillShape, fromBase64, same, shapePath } from "./brush.js";
import { coloured, outline, paint, paintMarks } from "./picture.js";
import { ask } from "./requests.js";
import { keepPlace, keepStep, readSteps } from "./steps.js";
import { Strip } from "./strip.js";

const $ = (id) => document.getElementById(id);
const UNDO_STEPS = 60, DRAFTS = 40, TOOLS = ["brush", "box", "lasso"];

// What is fixed (session, colours), what is shown (k, draft), and the work on each image that was opened in this tab.
let session, colours, strip, k = -1, draft = null;
const drafts = new Map();
const brush = { tool: "brush", remove: false, inverted: false, x: 0, y: 0, over: false };
const held = { bare: false, own: false };
let stroke = null, shape = null;  // what is being drawn
const otherTabs = new BroadcastChannel("cambench-attention-editor");

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
  shape = null;
  k = position;
  draft = drafts.get(k) ?? null;
  strip.show(k);
  setDisabled("previous", k === 0, "next", k === session.images.length - 1);
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
  const start = fromBase64(view.map), mask = view.mask && fromBase64(view.mask);
  const loaded = {
    image, k: position, item: view.item, label: view.label, className: view.class_name,
    own: fromBase64(view.own), values: Float32Array.from(start), start, revision: view.revision,
    mask, truth: outline(mask, view.boxes, session.size), hasTruth: Boolean(view.mask || view.boxes?.length),
    outcome: view.outcome, undo: [], redo: [], asking: false, again: false,
    steps: view.steps, line: Promise.resolve(), unkept: 0, apart: false, behind: false,
  };
  await readSteps(loaded);
  return loaded;
}

// Drop the oldest images that have nothing unsaved: hundreds of them, with their undo steps, fill the memory.
function forget() {
  for (const [position, d] of drafts) {
    if (drafts.size <= DRAFTS) return;
    if (d !== draft && !d.saving && !d.unkept && !changed(d)) drafts.delete(position);
  }
}

const state = ({ item, revision, when, source, damaged, unsaved }) => ({ item, revision, when, source, damaged, unsaved });
const changed = (d) => !same(bytesOf(d.values), d.start);

function show() {
  $("board").classList.remove("busy");
  $("title").textContent = draft.className;
  $("item").textContent = `${k + 1} of ${session.images.length} · ${draft.item}`;
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
  const byKeys = document.activeElement === $("marks");
  const shown = (brush.over || byKeys) && !held.bare && !held.own;
  paintMarks($("marks"), session.size, {
    truth: $("truth").checked && draft.hasTruth ? draft.truth : null,
    shape: shape && shapePath(shape),
    brush: shown ? { ...brush, ...brushNow() } : null,
    cell: shown && byKeys ? cellSize() : null,
  });
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

const cellSize = () => [session.size / session.grid[1], session.size / session.grid[0]];
const within = ([x, y]) => [Math.min(session.size, Math.max(0, x)), Math.min(session.size, Math.max(0, y))];

// Begin what the tool draws, at the brush's place.
function beginDrawing() {
  if (brush.tool === "brush") {
    stroke = new Stroke(draft.values, session.size, brushNow());
    stroke.line(brush.x, brush.y, brush.x, brush.y);
    infer(draft);
  } else {
    const at = within([brush.x, brush.y]);
    shape = { kind: brush.tool, points: [at, at] };
  }
  notice("");
  redraw();
}

function startStroke(event) {
  if (!draft || stroke || (event.button !== 0 && event.button !== 2) || held.own) return;
  $("marks").setPointerCapture(event.pointerId);
  brush.inverted = event.shiftKey || event.button === 2;
  [brush.x, brush.y] = point(event);
  beginDrawing();
}

function moveBrush(event) {
  if (!session) return;
  brush.over = true;
  const drawing = stroke || shape?.pointer;
  if (!drawing) brush.inverted = event.shiftKey;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const one of events.length ? events : [event]) moveTo(...point(one));
}

// Move the brush, and what is being drawn with it.
function moveTo(x, y) {
  stroke?.line(brush.x, brush.y, x, y);
  [brush.x, brush.y] = [x, y];
  if (shape) {
    if (shape.kind === "lasso" && !shape.byKeys) shape.points.push(within([x, y]));
    else shape.points[shape.points.length - 1] = within(shape.byKeys ? shape.reach(x, y) : [x, y]);
  }
  redraw();
  if (stroke) infer(draft);
}

function endStroke() {
  if (shape && !shape.byKeys) return fill();
  if (!stroke) return;
  const before = stroke.before;
  stroke = null;
  brush.inverted = false;
  if (!same(before, draft.values)) remember(bytesOf(before));
  changedNow();
}

// Fill the shape that was drawn.
function fill() {
  const filled = fillShape(draft.values, session.size, shape, brushNow());
  shape = null;
  brush.inverted = false;
  replace(filled);
  redraw();
}

function remember(before) {
  draft.undo.push(before);
  if (draft.undo.length > UNDO_STEPS) draft.undo.shift();
  draft.redo.length = 0;
  keepStep(draft, complain);
}

function changedNow() {
  showState();
  redraw();
  infer(draft);
}

function replace(values) {
  if (!draft || stroke || same(bytesOf(draft.values), values)) return;
  const before = bytesOf(draft.values);
  draft.values = Float32Array.from(values);
  remember(before);
  changedNow();
}

function step(from, to) {
  if (!draft || stroke || !draft[from].length) return;
  draft[to].push(bytesOf(draft.values));
  draft.values = Float32Array.from(draft[from].pop());
  keepPlace(draft, to === "undo" ? 1 : -1, complain);
  changedNow();
}

const undo = () => step("undo", "redo");
const redo = () => step("redo", "undo");
const reset = () => draft && replace(draft.own);
const clear = () => draft && replace(new Uint8Array(draft.values.length));

function setTool(tool) {
  if (stroke) return;
  shape = null;
  brush.tool = tool;
  for (const one of TOOLS) $(one).setAttribute("aria-pressed", one === tool);
  $("radius").disabled = $("soft").disabled = tool !== "brush";
  redraw();
}

// --- drawing with keys, on the picture

function pressOnPicture(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || !draft) return false;
  const move = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key];
  if (move) moveCursor(move, event.shiftKey);
  else if (key === " ") { if (!event.repeat) pressSpace(); }
  else if (key === "enter" && shape) endShape();
  else if (key === "escape") { if (shape) cancelShape(); else $("marks").blur(); }
  else return false;
  return true;
}

function moveCursor([dx, dy], fine) {
  const [w, h] = fine ? [1, 1] : cellSize();
  const to = (v, d, cell) => Math.min(session.size - cell / 2, Math.max(cell / 2, v + d * cell));
  moveTo(to(brush.x, dx, w), to(brush.y, dy, h));
  sayPlace();
}

function pressSpace() {
  brush.inverted = false;
  if (brush.tool === "brush") return beginDrawing();  // until the key is let go
  if (!shape) {
    beginDrawing();
    shape.byKeys = true;
    const [w, h] = cellSize(), [x0, y0] = [brush.x, brush.y];
    shape.reach = (x, y) => {  // a box covers the cells of both corners
      if (brush.tool !== "box") return [x, y];
      shape.points[0] = within([x0 + (x < x0 ? w : -w) / 2, y0 + (y < y0 ? h : -h) / 2]);
      return [x + (x < x0 ? -w : w) / 2, y + (y < y0 ? -h : h) / 2];
    };
    moveTo(brush.x, brush.y);
    return say(brush.tool === "box" ? "First corner set. Move, then press space." : "First point set. Space sets more, Enter fills.");
  }
  if (brush.tool === "box") return endShape();
  shape.points.push(within([brush.x, brush.y]));
  return say(`Point ${shape.points.length - 1} set.`);
}

function endShape() {
  if (shape.kind === "lasso" && shape.points.length < 4) return say("A lasso needs three points; space sets one.");
  const { kind } = shape;
  fill();
  say(kind === "box" ? "Box filled." : "Lasso filled.");
}

function cancelShape() {
  shape = null;
  redraw();
  say("Shape cancelled.");
}

function goToPicture() {
  const [w, h] = cellSize(), { size } = session;
  const middle = (v, cell) => (Math.floor(Math.min(size - 1, Math.max(0, v)) / cell) + 0.5) * cell;
  const outside = brush.x <= 0 || brush.y <= 0 || brush.x >= size || brush.y >= size;
  const [x, y] = outside ? [size / 2, size / 2] : [brush.x, brush.y];
  [brush.x, brush.y] = [middle(x, w), middle(y, h)];
  $("marks").focus();
}

const say = (text) => { $("spoken").textContent = text; };

function sayPlace() {
  if (!draft) return;
  const { size, grid: [rows, columns] } = session;
  const x = Math.min(size - 1, Math.floor(brush.x)), y = Math.min(size - 1, Math.floor(brush.y)), i = y * size + x;
  const on = draft.mask ? (draft.mask[i] ? ", on the object" : ", beside the object") : "";
  const row = Math.floor(y / size * rows) + 1, column = Math.floor(x / size * columns) + 1;
  say(`Row ${row} of ${rows}, column ${column} of ${columns}, attention ${Math.round(draft.values[i] / 2.55)} percent${on}.`);
}

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
  const { source, damaged, unsaved } = session.images[position];
  if (d ? changed(d) : unsaved) return "changed";
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
  setDisabled("undo", !draft?.undo.length, "redo", !draft?.redo.length);
  strip.mark(k);
  const done = session.images.filter((one) => one.source === "editor").length;
  $("count").textContent = `${done} of ${session.images.length} drawn`;
  $("progress").setAttribute("aria-valuenow", done);
  $("progress").setAttribute("aria-valuemax", session.images.length);
  $("progress").firstElementChild.style.width = `${100 * done / session.images.length}%`;
  document.title = `${stateOf(k) === "changed" ? "● " : ""}${k + 1}/${session.images.length} Attention editor`;
}

// Two buttons that belong together. One that cannot be pressed any more gives the focus to the other one, so that a
// keyboard does not lose its place.
function setDisabled(first, firstDisabled, second, secondDisabled) {
  const focused = document.activeElement;
  $(first).disabled = firstDisabled;
  $(second).disabled = secondDisabled;
  if (![$(first), $(second)].includes(focused) || !focused.disabled) return;
  const other = focused === $(first) ? $(second) : $(first);
  (other.disabled ? $("marks") : other).focus();
}

const describe = (position) => ({
  name: `${session.images[position].item}: ${stateText(position)}`, state: stateOf(position),
});

async function save() {
  const d = draft;
  if (!d || d.saving || stroke) return false;
  const bytes = bytesOf(d.values);
  d.saving = true;
  showState();
  try {
    await d.line;  // the steps come first, so that the server knows which of them is saved
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
  d.unkept = 0;
  session.images[d.k] = state(saved);
  strip.mark(d.k);
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
  keepStep(d, complain);
  strip.mark(d.k);
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
      const loaded = await load(data.position);
      if (changed(d) || (stroke && d === draft)) return;
      drafts.set(data.position, loaded);
      if (d === draft) {
        draft = loaded;
        show();
      }
    } catch (error) {
      complain(error);
    }
  }
  strip.mark(data.position);
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

function slide(id, amount) {
  $(id).value = Number($(id).value) + amount;
  $(id).dispatchEvent(new Event("input"));
}

const toggle = (id) => !$(id).disabled && $(id).click();

const KEYS = {
  b: () => setTool("brush"), x: () => setTool("box"), l: () => setTool("lasso"),
  a: () => setRemove(false), e: () => setRemove(true), d: goToPicture,
  "[": () => slide("radius", -session.size / 64), "]": () => slide("radius", session.size / 64),
  "{": () => slide("soft", -10), "}": () => slide("soft", 10),
  "-": () => slide("opacity", -10), "+": () => slide("opacity", 10), "=": () => slide("opacity", 10),
  r: reset, c: clear, s: save, enter: saveAndGo, u: openUnsaved,
  arrowleft: () => open(k - 1), arrowright: () => open(k + 1),
  pageup: () => open(k - 1), pagedown: () => open(k + 1),
  t: () => toggle("truth"), g: () => toggle("grid"), "?": () => $("help").showModal(),
  escape: () => { if (shape) cancelShape(); },
};
const WITH_CONTROL = { z: (event) => (event.shiftKey ? redo() : undo()), y: redo, s: save };

// A control that has the focus keeps the keys that it needs itself.
function isForControl(target, key) {
  if (target.matches("select")) return true;
  if (target.matches("button")) return key === " " || key === "enter";
  if (target.matches("input[type=range]")) return /^(arrow.*|page.*|home|end)$/.test(key);
  return target.matches("input") && key === " ";
}

function onKey(event) {
  byPointer = false;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (!session || event.altKey || document.querySelector("dialog[open]")) return;
  if (!control && isForControl(event.target, key)) return;
  if (event.target === $("marks") && pressOnPicture(event)) return event.preventDefault();
  if (!control && key.length === 1 && !$("letters").checked) return;
  if (!control && (key === " " || key === "m")) {
    held[key === "m" ? "own" : "bare"] = true;
    event.preventDefault();
    return redraw();
  }
  if (key === "shift" && !stroke && !shape) {
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
  if (key === " " && stroke && event.target === $("marks")) {
    endStroke();
    sayPlace();
  }
  if (key === " ") held.bare = false;
  if (key === "m") held.own = false;
  if (key === "shift" && !stroke) brush.inverted = false;
  redraw();
}

const SHOWN = {
  radius: (v) => `${v} px`, soft: (v) => `${v} %`, strength: (v) => `${v} %`, opacity: (v) => `${v} %`,
};

// What was changed with the mouse gives the focus back, so that arrow keys go through the queue again.
let byPointer = false;
function letGo(element) {
  if (byPointer) element.blur();
}

function wireControls() {
  for (const [id, text] of Object.entries(SHOWN)) {
    const write = () => {
      $(id).previousElementSibling.textContent = text($(id).value);
      $(id).setAttribute("aria-valuetext", text($(id).value));
      redraw();
    };
    $(id).addEventListener("input", write);
    $(id).addEventListener("change", () => letGo($(id)));
    write();
  }
  for (const id of ["colours", "truth", "grid"]) $(id).addEventListener("change", () => { letGo($(id)); redraw(); });
  const buttons = {
    add: () => setRemove(false), remove: () => setRemove(true), undo, redo, reset, clear, save, "save-next": saveAndGo,
    previous: () => open(k - 1), next: () => open(k + 1), "show-help": () => $("help").showModal(),
    ...Object.fromEntries(TOOLS.map((tool) => [tool, () => setTool(tool)])),
  };
  for (const [id, action] of Object.entries(buttons)) {
    $(id).addEventListener("click", () => { letGo($(id)); action(); });
  }
  $("letters").checked = localStorage.getItem("letters") !== "off";
  $("letters").addEventListener("change", () => localStorage.setItem("letters", $("letters").checked ? "on" : "off"));
}

function wirePicture() {
  const canvas = $("marks");
  canvas.addEventListener("mousedown", (event) => {
    event.preventDefault();  // a mouse does not need the keyboard's cursor
    if (document.activeElement !== canvas) document.activeElement?.blur();
  });
  canvas.addEventListener("pointerdown", startStroke);
  canvas.addEventListener("pointermove", moveBrush);
  canvas.addEventListener("pointerup", endStroke);
  canvas.addEventListener("pointercancel", endStroke);
  canvas.addEventListener("lostpointercapture", endStroke);
  canvas.addEventListener("pointerleave", () => { brush.over = false; redraw(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("focus", () => { if (!byPointer) goToPicture(); sayPlace(); redraw(); });
  canvas.addEventListener("blur", () => { endStroke(); if (shape?.byKeys) cancelShape(); redraw(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    slide("radius", -Math.sign(event.deltaY) * session.size / 96);
  }, { passive: false });
}

function wire() {
  addEventListener("pointerdown", () => { byPointer = true; }, true);
  wireControls();
  wirePicture();
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", onKeyUp);
  addEventListener("blur", () => { held.bare = held.own = false; redraw(); });
  addEventListener("beforeunload", (event) => {
    if ([...drafts.values()].some((d) => d.unkept && changed(d))) event.preventDefault();
  });
  new ResizeObserver(() => draft && fit()).observe($("room"));
}

// --- the start

async function waitForStart() {
  for (;;) {
    const { ready, step, done, total, failure } = await ask("/api/start");
    if (failure) throw new Error(`The editor could not start. ${failure}`);
    if (ready) return;
    $("step").textContent = total ? `${step}: ${done} of ${total}` : `${step} …`;
    if (total) $("share").value = done / total;
    else $("share").removeAttribute("value");
    await new Promise((done) => setTimeout(done, 300));
  }
}

async function start() {
  history.replaceState(null, "", location.pathname);  // the token is in a cookie now, and need not be seen
  await waitForStart();
  session = await ask("/api/session");
  colours = Object.fromEntries(Object.entries(session.colour_maps).map(([name, text]) => [name, fromBase64(text)]));
  $("colours").replaceChildren(...Object.keys(colours).map((name) => new Option(name)));
  $("facts").textContent = `${session.model} on ${session.subset} · ${session.folder}`;
  $("facts").title = `${session.looked_at} images looked at, ${session.right} right in class`;
  $("radius").max = Math.round(session.size / 2);
  $("radius").value = Math.round(session.size / 12);
  document.body.classList.remove("starting");
  strip = new Strip({ list: $("queue"), pages: $("pages"), count: session.images.length, describe, open });
  wire();
  await open(session.first);
}

start().catch((error) => {
  complain(error);
  $("step").textContent = error.message;
  $("share").hidden = true;
});
