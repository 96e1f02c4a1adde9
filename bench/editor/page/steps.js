// The steps of a drawing on the server, so that undo and redo survive a reload of the page.
import { ask, askBytes } from "./requests.js";
import { bytesOf, same } from "./brush.js";

const url = (d, what, numbers) => `/api/images/${d.k}/${what}?${new URLSearchParams(numbers)}`;

function add(d, bytes, keep) {
  const saved = same(bytes, d.start) ? 1 : 0;
  return ask(url(d, "steps", { keep, base: d.revision, seen: d.steps?.version ?? 0, saved }), bytes);
}

// Put the steps that the server keeps into an image that was just loaded.
export async function readSteps(d) {
  if (!d.steps) return;
  const all = await askBytes(`/api/images/${d.k}/steps`);
  const one = d.values.length, { count, place, saved, base } = d.steps;
  if (all.length !== count * one) throw new Error("The steps of this drawing changed meanwhile; reload the page.");
  const maps = Array.from({ length: count }, (_, i) => all.slice(i * one, (i + 1) * one));
  d.values = Float32Array.from(maps[place]);
  d.undo = maps.slice(0, place);
  d.redo = maps.slice(place + 1).reverse();
  if (saved >= 0) d.start = maps[saved];
  d.revision = base;
}

// What has changed is sent in order, one request after the other. `d.unkept`: changes that the server does not have.
function chain(d, work, complain) {
  d.unkept += 1;
  d.line = d.line.then(async () => {
    if (d.apart) return;
    try {
      await work();
      d.unkept -= 1;
    } catch (error) {
      if (error.status === 409) d.apart = true;  // another page has this drawing; saving asks about it
      else d.behind = true;
      complain(error);
    }
  });
}

// Keep what is shown now as a new step.
export function keepStep(d, complain) {
  const bytes = bytesOf(d.values), before = [...d.undo];
  chain(d, async () => {
    if (d.steps && !d.behind) {
      d.steps = await add(d, bytes, d.steps.place + 1);
      return;
    }
    const all = [...before, bytes];
    for (let keep = 0; keep < all.length; keep++) d.steps = await add(d, all[keep], keep);
    if (d.behind) d.unkept = 1;
    d.behind = false;
  }, complain);
}

// Keep that an earlier or a later step is shown.
export function keepPlace(d, move, complain) {
  chain(d, async () => {
    if (!d.steps || d.behind) throw new Error("This step back is not kept over a reload; the next stroke is.");
    d.steps = await ask(url(d, "place", { at: d.steps.place + move, seen: d.steps.version }), "");
  }, complain);
}
