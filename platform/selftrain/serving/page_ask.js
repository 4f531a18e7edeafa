"use strict";
const $ = id => document.getElementById(id);
const TRIES = 6;
let token = "";

function element(tag, text, style) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (style) made.className = style;
  return made;
}
const pause = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
// One request; busy servers and broken connections are tried again. Throws an Error with the server's sentence.
async function ask(path, body) {
  for (let attempt = 1; ; attempt++) {
    let answer, wait = 0.3 * 2 ** attempt;
    try {
      const headers = body ? {"content-type": "application/json"} : {};
      if (token) headers.authorization = "Bearer " + token;
      answer = await fetch(path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body)});
    } catch (error) {
      if (attempt === TRIES) throw new Error("the server cannot be reached");
    }
    if (answer) {
      if (answer.ok) return answer.json();
      if (answer.status === 401) $("token-form").hidden = false;
      if (answer.status !== 503 || attempt === TRIES) {
        const said = await answer.json().catch(() => ({}));
        throw new Error(said.error || "status " + answer.status);
      }
      wait = Math.max(wait, Number(answer.headers.get("retry-after")) || 0);
    }
    await pause(wait);
  }
}
// The token stays in the memory of the tab; `then` asks again with it.
function onToken(then) {
  $("token-form").onsubmit = event => { event.preventDefault(); token = $("token").value.trim(); $("token").value = ""; then(); };
}

