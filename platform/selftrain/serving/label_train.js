// The card of a folder of training: whether further answers help, and the run that learns from them.
const LOOK_SECONDS = {running: 1}, SELDOM_SECONDS = 10;
let looking = false, lookDue = 0;
const percent = value => (100 * value).toFixed(1);
const points = value => (value < 0 ? "−" : "+") + (100 * Math.abs(value)).toFixed(1);

function showSettling(found) {
  $("training").hidden = found.purpose !== "training";
  if (found.purpose !== "training") return;
  const one = found.settling;
  $("settling").textContent = one ? one.says : found.done === found.total ? "All questions are answered." : "Whether further answers help is said once there are 20, and one of every class.";
  $("settling").className = one && one.stop ? "settled" : "soft small";
}

function showTraining(found) {
  const runs = found.state === "running";
  $("start").hidden = runs;
  if (runs) confirming(false);
  $("runs").hidden = !runs;
  $("done").hidden = found.state !== "done";
  $("why").textContent = found.state === "failed" ? found.error : found.state === "killed" ? `The run was ended before it was done${found.line ? `; its last line: ${found.line}` : "."}` : "";
  if (runs) {
    if (found.rounds) { $("round").max = found.rounds; $("round").value = found.round; } else $("round").removeAttribute("value");
    $("pace").textContent = `${found.rounds ? `Round ${found.round} of ${found.rounds}, ` : ""}${found.seconds.toFixed(0)} s, ${found.answers} answers`;
    $("line").textContent = found.line;
  }
  if (found.state === "done") showDone(found);
}
function showDone({answers, seconds, bundle, serve, compared, not_compared}) {
  $("made").textContent = `A run of ${seconds.toFixed(0)} s has learned from ${answers} answers.`;
  $("bundle").textContent = bundle;
  $("serve").textContent = serve;
  const row = (name, one, write) => one === null || one.estimate === null ? [] : [[name, `${write(one.estimate)} (${write(one.low)} to ${write(one.high)})`]];
  const rows = !compared ? [] : [...row("Before", compared.old, percent), ...row("New", compared.new, percent), ...row("Gain", compared.gain, points)];
  $("compared").hidden = !rows.length;
  $("compared").tBodies[0].replaceChildren(...rows.map(([name, value]) => {
    const made = element("tr"), head = element("th", name);
    head.scope = "row";
    made.append(head, element("td", value));
    return made;
  }));
  if (compared) $("compared").caption.textContent = `Accuracy on the audit's ${compared.answers} answers, in per cent, with 95 % intervals`;
  $("not-compared").textContent = not_compared || "";
}

function confirming(now) {
  $("train").hidden = now;
  $("confirm").hidden = !now;
}
async function look(what = () => ask("/label/training")) {
  if (looking) return;
  looking = true;
  let found = {};
  try {
    found = await what();
    showTraining(found);
  } catch (error) {
    if ($("token-form").hidden) $("why").textContent = error.message;
  }
  lookDue = Date.now() + 1000 * (LOOK_SECONDS[found.state] || SELDOM_SECONDS);
  looking = false;
}
$("train").onclick = () => { confirming(true); $("go").focus(); };
$("cancel").onclick = () => { confirming(false); $("train").focus(); };
$("go").onclick = () => { confirming(false); look(() => ask("/label/training", {browser, confirm: true})); };
setInterval(() => {
  if (!document.hidden && $("token-form").hidden && state && state.purpose === "training" && Date.now() >= lookDue) look();
}, 500);
