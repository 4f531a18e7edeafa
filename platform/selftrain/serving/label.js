const NONE = "none of these", SKIP = "skip", KEYS = 9, LONG = 400, RENEWALS = 3, WAIT_SECONDS = 5;
const PURPOSES = {
  audit: "Audit: a random sample says how good the classifier is. Nothing is learned from these answers.",
  training: "Training: documents that are worth a label. These answers are learned from, and say nothing about accuracy.",
};
const SEVERAL = " Choose every class that a document has, and confirm.";
let browser, state = null, chosen = new Set(), running = Promise.resolve(), acting = false, due = 0;

// A word of this tab, so that a page that is loaded again gets its own question back, and may undo. It is no secret.
function name() {
  const kept = sessionStorage.getItem("browser");
  if (kept) return kept;
  const made = [...crypto.getRandomValues(new Uint8Array(12))].map(one => one.toString(16).padStart(2, "0")).join("");
  sessionStorage.setItem("browser", made);
  return made;
}
const share = value => (100 * value).toFixed(0) + " %";
const say = (text, bad) => { $("said").textContent = text; $("said").className = bad ? "bad small" : "soft small"; };

// One request after the other. While an answer is on its way further keys say nothing: they would answer a question that nobody has read yet.
function send(what, body, done) {
  return running = running.then(async () => {
    const asked = state && state.question;
    if (what === "answer" && body.question !== (asked && asked.id)) return;  // another browser has had it meanwhile
    try {
      show(await ask("/label/" + what, {browser, ...body}));
      $("token-form").hidden = true;
      if (state.late) say("Another browser has answered this one; here is the next.");
      else if (done !== undefined) say(done);
    } catch (error) {
      say(`${error.message[0].toUpperCase()}${error.message.slice(1)}.${what === "next" ? "" : " It may not be kept; once more, please."}`, true);
      if (!state) $("purpose").textContent = `No question: ${error.message}.`;
    }
    const seconds = !state ? Infinity : state.question ? state.seconds / RENEWALS : WAIT_SECONDS;
    due = Date.now() + 1000 * seconds;
  });
}
async function act(what, body, done) {
  if (acting) return;
  acting = true;
  $("desk").setAttribute("aria-busy", "true");
  await send(what, body, done);
  $("desk").removeAttribute("aria-busy");
  acting = false;
}
function answer(given) {
  if (state && state.question) act("answer", {question: state.question.id, answer: given}, `Kept: ${[].concat(given).join(", ")}.`);
}
// A class: the answer, or where a document may have several one more or less of those that are chosen.
function pick(name) {
  if (!state.several) return answer(name);
  if (acting || !state.question) return;
  if (!chosen.delete(name)) chosen.add(name);
  say("");
  showChosen();
}
function give() {
  if (chosen.size) answer(state.classes.filter(one => chosen.has(one)));
  else say("No class is chosen. If the document has none of them, say so: 0.");
}
function showChosen() {
  for (const one of $("classes").children) {
    one.classList.toggle("chosen", chosen.has(one.dataset.answer));
    one.setAttribute("aria-pressed", chosen.has(one.dataset.answer));
  }
  $("give").disabled = !state.question;
  $("none").disabled = !state.question || chosen.size > 0;
}
function undo() {
  if (state && state.undo) act("undo", {question: state.undo}, "Taken back. What is the right answer?");
}

function makeButtons(classes) {
  $("classes").replaceChildren(...classes.map((one, place) => {
    const made = element("button");
    made.type = "button";
    made.dataset.answer = one;
    if (place < KEYS) made.append(element("kbd", String(place + 1)));
    made.append(element("span", one), element("span", "", "number"));
    made.onclick = () => pick(one);
    return made;
  }));
}

function show(found) {
  if (!state) makeButtons(found.classes);
  const asked = found.question, same = state && state.question && asked && state.question.id === asked.id;
  state = found;
  $("desk").hidden = false;
  $("give").hidden = !found.several;
  $("purpose").textContent = PURPOSES[found.purpose] + (found.several ? SEVERAL : "");
  $("h-accuracy").textContent = found.several ? "Exact match so far" : "Accuracy so far";
  $("count").textContent = `${found.done} of ${found.total}`;
  $("progress").max = found.total;
  $("progress").value = found.done;
  if (!same) {
    const text = asked ? asked.text : ended(found);
    $("text").textContent = text;
    $("text").className = text.length > LONG ? "long" : "";
    $("document").scrollTop = 0;
  } else if (!asked) $("text").textContent = ended(found);
  for (const one of [...$("classes").children, $("none"), $("skip")]) {
    const before = found.before === null && same ? one.classList.contains("before") : found.before === one.dataset.answer;
    one.disabled = !asked;
    one.classList.toggle("before", before);
    one.title = before ? "your answer before" : "";
  }
  if (found.several) {
    if (!same) chosen = new Set(Array.isArray(found.before) ? found.before : []);
    showChosen();
  }
  if (found.purpose === "training") for (const one of $("classes").children) one.lastChild.textContent = found.counts[one.dataset.answer] || "";
  $("undo").disabled = !found.undo;
  $("accuracy").hidden = found.purpose !== "audit";
  showSettling(found);
  if (found.accuracy) showAccuracy(found.accuracy);
}
function ended(found) {
  if (found.elsewhere) return `${found.elsewhere === 1 ? "The last question is" : `The last ${found.elsewhere} questions are`} open in another browser.`;
  return `All ${found.total} questions are answered. Thank you.`;
}
function showAccuracy({estimate, low, high, anytime}) {
  $("interval").textContent = (estimate === null ? "" : `${share(estimate)}, `) + `from ${share(low)} to ${share(high)}`;
  $("between").style.left = 100 * low + "%";
  $("between").style.width = 100 * (high - low) + "%";
  $("estimate").hidden = estimate === null;
  $("estimate").style.left = 100 * estimate + "%";
  $("valid").textContent = anytime ? "95 % interval, valid whenever you stop" : "95 % interval, for all planned answers";
}

async function download() {
  try {
    const got = await fetch("/label/answers.csv", {headers: token ? {authorization: "Bearer " + token} : {}});
    if (!got.ok) throw new Error((await got.json()).error);
    const link = element("a");
    link.href = URL.createObjectURL(await got.blob());
    link.download = state.purpose === "audit" ? "answers.csv" : "training.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    say("The answers cannot be downloaded: " + error.message, true);
  }
}

$("none").dataset.answer = NONE;
$("skip").dataset.answer = SKIP;
$("none").onclick = () => answer(NONE);
$("skip").onclick = () => answer(SKIP);
$("undo").onclick = undo;
$("give").onclick = give;
$("download").onclick = event => { event.preventDefault(); download(); };
document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target === $("token") || !state) return;
  const place = "123456789".indexOf(event.key), key = event.key.toLowerCase();
  if (event.key.length === 1 && place >= 0 && place < state.classes.length) pick(state.classes[place]);
  else if (key === "0") { if (!$("none").disabled) answer(NONE); }
  // Also on a class that was clicked, which Enter would take back; the other buttons and links have an Enter of their own.
  else if (key === "enter" && state.several && (!event.target.closest("button, a") || $("classes").contains(event.target))) give();
  else if (key === "s") answer(SKIP);
  else if (key === "u" || key === "backspace") undo();
  else return;
  event.preventDefault();
};
const next = () => send("next", {});
onToken(next);
// An open page says that it still has its question; a hidden one lets it go after a while, and asks again when it is seen.
setInterval(() => { if (!document.hidden && $("token-form").hidden && Date.now() >= due) next(); }, 1000);
document.onvisibilitychange = () => { if (!document.hidden && state) next(); };
addEventListener("pagehide", () => {
  const headers = {"content-type": "application/json", ...(token && {authorization: "Bearer " + token})};
  fetch("/label/leave", {method: "POST", keepalive: true, headers, body: JSON.stringify({browser})});
});
browser = name();
next();
