// Questions to the editor's server.

export class Refusal extends Error {
  constructor(status, body) {
    super(body.error ?? `The editor answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

async function send(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("The editor does not answer: it was closed. What you drew is still in this tab; start it again, then save.");
  }
  if (answer.status === 403) {
    throw new Error("The editor was started anew: open the address that it printed in another tab of this browser, then save here. What you drew is still in this tab.");
  }
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

export const ask = async (path, body) => (await send(path, body)).json();
export const askBytes = async (path) => new Uint8Array(await (await send(path)).arrayBuffer());
