const CHUNK = 64, AUGMENTED_CHUNK = 8, SHOWN_ROWS = 20, SHOWN_BARS = 6, ZERO = 0.001, EXAMPLES = 4, EXCERPT = 120;
const NONE_SHARE = 0.05;
let models = [], limit = 256, most = 256, rows = null, name = "", stopped = false, promised = false;

const percent = value => (100 * value).toFixed(1) + " %";
const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const idOf = one => one.name + "@" + one.version;
// A registered version is a number; a bundle from a folder has the time of its making, which is shown as a day.
function titleOf(one) {
  const day = /^\d{4}-\d\d-\d\dT/.test(one.version) ? new Date(one.version) : null;
  return day ? `${one.name}, built ${day.toLocaleDateString("en", {dateStyle: "medium"})}` : `${one.name}, version ${one.version}`;
}

// The further fields of a request, and how many texts it holds: a language model takes its time. What a promise says is about texts that are read alone.
const further = () => $("augment").checked ? [{augment: true}, Math.min(limit, AUGMENTED_CHUNK)]
  : [$("none").checked ? {none_of_these: promised ? "promise" : NONE_SHARE} : {}, limit];
const wantedModels = () => [$("model").value, $("other-box").hidden ? "" : $("other").value].filter((one, index) => one || !index);

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([text, value]) => new Option(text, value)));
  if (options.some(([, value]) => value === before)) select.value = before;
}
// A model is never compared with itself: the second list leaves out what the first one holds.
function fillOther() {
  const others = models.filter(one => idOf(one) !== $("model").value);
  fill($("other"), [["nothing", ""], ...others.map(one => [titleOf(one), idOf(one)])]);
  $("other-box").hidden = !others.length;
}

// Which texts fit no class is said where all chosen models can say it, of texts that are read alone.
function offerNone() {
  const chosen = wantedModels().map(id => models.find(one => idOf(one) === id) || models[0]), able = chosen.every(one => one && one.none_of_these);
  promised = able && chosen.every(one => one.none_of_these.promise);
  $("none-box").hidden = !able || $("augment").checked;
  if ($("none-box").hidden) $("none").checked = false;
  $("none-how").textContent = promised ? "– " + chosen.map(one => one.none_of_these.promise.sentence).join("; ")
    : `– for a text that fits no class; ${percent(NONE_SHARE)} of texts like the known documents would be taken for such. Also for files.`;
}

async function look() {
  try {
    const said = await ask("/v1/models");
    most = said.limits.texts;
    limit = Math.min(CHUNK, most);
    // A champion that is followed may also be served by its version: one entry is enough.
    const found = said.models.filter((one, index) => said.models.findIndex(other => idOf(other) === idOf(one)) === index);
    if (found.map(idOf).join() !== models.map(idOf).join()) {
      models = found;
      fill($("model"), found.map((one, index) => [titleOf(one) + (index || found.length === 1 ? "" : " (default)"), idOf(one)]));
      fillOther();
    }
    $("example").hidden = false;
    $("augment-box").hidden = !said.augment;
    if (!said.augment) $("augment").checked = false;
    offerNone();
    $("live").textContent = "Live: " + found.map(one => `${titleOf(one)}, ${one.labels.length} classes, since `
      + new Date(one.since).toLocaleString("en", {dateStyle: "medium", timeStyle: "short"}) + (one.problem ? ` (problem: ${one.problem})` : "")).join("; ");
    $("live").className = found.some(one => one.problem) ? "bad small" : "soft small";
    $("token-form").hidden = true;
  } catch (error) {
    $("live").textContent = "The live models are not known: " + error.message;
    $("live").className = "bad small";
  }
}

function bar(label, value, first) {
  const line = element("div", undefined, first ? "bar first" : "bar"), track = element("div", undefined, "track"), filled = element("div");
  filled.style.width = 100 * value + "%";
  track.append(filled);
  line.append(element("span", label, "label"), track, element("span", percent(value), "number"));
  return line;
}
// The label in large, then the other classes that have a share; the rest is folded.
function verdict(one) {
  const box = element("div");
  if (one.error) { box.append(element("p", "Error: " + one.error, "bad")); return box; }
  const entries = Object.entries(one.probabilities);
  if (one.none_of_these) box.append(element("p", `None of these: ${percent(one.typicality)} of the known documents are as strange.`, "bad"));
  if (one.labels) box.append(element("p", labelOf(one), "several"));
  box.append(bar(...entries[0], !one.labels));
  const groups = Object.entries(one.parents || {});
  if (groups.length) box.append(element("p", "in " + groups.map(([group, value]) => `${group} ${percent(value)}`).join(", "), "soft small"));
  if (one.truncated) box.append(element("p", "The text was not read to its end.", "soft"));
  if (one.continuations !== undefined) box.append(element("p", one.continuations ? `Read with ${count(one.continuations, "continuation")}.`
    : "No continuation was usable: the text was read alone.", "soft"));
  const shown = Math.max(1, Math.min(SHOWN_BARS, entries.filter(([, value]) => value >= ZERO).length)), rest = entries.slice(shown);
  box.append(...entries.slice(1, shown).map(([label, value]) => bar(label, value)));
  if (rest.length) {
    const folded = element("details");
    folded.append(element("summary", `${rest.length} more, each ${rest[0][1] < ZERO ? "below 0.1 %" : "at most " + percent(rest[0][1])}`),
      ...rest.map(([label, value]) => bar(label, value)));
    box.append(folded);
  }
  return box;
}
// What a text is said to be: its label, or all of its labels where a model gives several.
const labelOf = one => one.labels ? one.labels.join(", ") || "none of the classes" : one.label;
const differ = answers => answers.length > 1 && answers.some(one => labelOf(one) !== labelOf(answers[0]));

// A long text shows its first lines; the button is there only where something is hidden.
function clamp(part, text) {
  text.classList.add("clamped");
  if (text.scrollHeight <= text.clientHeight + 1) { text.classList.remove("clamped"); return; }
  const more = element("button", "Show all", "link small");
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  more.onclick = () => {
    const open = !text.classList.toggle("clamped");
    more.textContent = open ? "Show less" : "Show all";
    more.setAttribute("aria-expanded", String(open));
  };
  text.after(more);
}

const typed = () => $("whole").checked ? [$("texts").value].filter(one => one.trim()) : $("texts").value.split("\n").filter(one => one.trim());

async function classify() {
  const texts = typed(), said = $("said");
  said.className = "soft";
  if (!texts.length) { said.textContent = "Type a text first."; $("texts").focus(); return; }
  $("classify").disabled = true;
  said.textContent = "Classifying …";
  try {
    const [fields, chunk] = further();
    const found = await Promise.all(wantedModels().map(async model => {
      const results = [];
      let id;
      for (let start = 0; start < texts.length; start += chunk) {
        const answer = await ask("/v1/classify", {texts: texts.slice(start, start + chunk), ...(model && {model}), ...fields});
        id = answer.model;
        results.push(...answer.results);
      }
      return {id, results};
    }));
    let differing = 0;
    const answers = texts.map((text, index) => {
      const part = element("article"), columns = element("div", undefined, "columns"), own = found.map(one => one.results[index]);
      if (differ(own)) {
        differing++;
        part.className = "differs";
        part.append(element("span", "The models disagree", "badge"));
      }
      part.append(element("p", text, "text"));
      for (const one of found) {
        const column = element("div");
        if (found.length > 1) column.append(element("h3", titleOf(one.id)));
        column.append(verdict(one.results[index]));
        columns.append(column);
      }
      part.append(columns);
      return part;
    });
    $("answers").replaceChildren(...answers);
    answers.forEach(part => clamp(part, part.querySelector(".text")));
    said.textContent = `${count(texts.length, "text")} by ${found.map(one => titleOf(one.id)).join(" and ")}`
      + (found.length > 1 ? differing ? `; they disagree on ${differing}.` : "; they agree." : ".");
    $("only-box").hidden = !differing || differing === texts.length;
    if ($("only-box").hidden) $("only").checked = false;
    showOnly();
  } catch (error) {
    said.textContent = "Error: " + error.message;
    said.className = "bad";
    look();
  }
  $("classify").disabled = false;
}
function showOnly() {
  for (const part of $("answers").children) part.hidden = $("only").checked && !part.classList.contains("differs");
}

function example() {
  const chosen = models.find(one => idOf(one) === $("model").value) || models[0];
  $("whole").checked = false;
  sayHow();
  $("texts").value = chosen.labels.slice(0, EXAMPLES).map(label => `I am writing to you about ${label}.`).join("\n");
  classify();
}
function sayHow() { $("texts-label").textContent = $("whole").checked ? "One text" : "One text a line"; }

// The request of the box for a terminal. The token is a variable of the shell: it must not stand in a history.
async function copy() {
  const texts = typed().slice(0, most), quoted = text => "'" + text.replaceAll("'", "'\\''") + "'";
  if (!texts.length) texts.push("a text to classify");
  const [fields] = further(), [model] = wantedModels();
  const body = JSON.stringify({...(texts.length > 1 ? {texts} : {text: texts[0]}), ...(model && {model}), ...fields});
  const headers = ["-H 'content-type: application/json'", ...(token ? ['-H "authorization: Bearer $SELFTRAIN_SERVE_TOKEN"'] : [])];
  const command = `curl -s ${quoted(location.origin + "/v1/classify")} ${headers.join(" ")} -d ${quoted(body)}`;
  $("curl").textContent = command;
  $("curl").hidden = false;
  try {
    await navigator.clipboard.writeText(command);
    $("copied").textContent = "Copied.";
  } catch (error) {  // plain http beyond this machine has no clipboard
    getSelection().selectAllChildren($("curl"));
    $("copied").textContent = "Selected; copy it with Ctrl + C.";
  }
}

const excerpt = text => { const short = text.trim().replace(/\s+/g, " "); return short.length > EXCERPT ? short.slice(0, EXCERPT) + " …" : short; };

async function choose(file) {
  const said = $("file-said");
  rows = null;
  $("label").disabled = true;
  $("column-box").hidden = $("download").hidden = true;
  $("row-errors").replaceChildren();
  $("differences").replaceChildren();
  said.className = "gap";
  try {
    const text = new TextDecoder("utf-8", {fatal: true}).decode(await file.arrayBuffer());
    const read = parse(text);
    if (read.found.length < 2) throw new Error("it has no rows below the names of its columns");
    rows = read;
    name = file.name;
    const head = rows.found[0];
    $("column").replaceChildren(...head.map((one, index) => new Option(one || `column ${index + 1}`, index)));
    const usual = head.findIndex(one => one.trim().toLowerCase() === "text");
    $("column").value = usual < 0 ? 0 : usual;
    $("column").disabled = $("label").disabled = $("column-box").hidden = false;
    preview();
  } catch (error) {
    said.textContent = `${file.name} cannot be read: ${error instanceof TypeError ? "it is not UTF-8" : error.message}`;
    said.className = "bad gap";
  }
}
function preview() {
  const first = excerpt(rows.found[1][Number($("column").value)] ?? "");
  $("file-said").textContent = `${name}: ${count(rows.found.length - 1, "row")}. The first text: ${first ? "“" + first + "”" : "empty"}`;
}

// Every row of the file with what was found; rows that were not reached say so, so that nothing that is done is lost.
function labeled(found, answers, wanted) {
  const [head, ...body] = found, compared = wanted.length > 1;
  const tree = answers[0].some(one => one && one.parents), none = answers[0].some(one => one && one.typicality !== undefined);
  const parents = one => Object.keys((one && one.parents) || {}).join(" / ");
  const lines = [[...head, ...newColumns(head, compared, tree, none)]];
  body.forEach((row, index) => {
    const own = wanted.map((_, place) => answers[place][index]), complete = own.every(one => one && !one.error);
    const error = own.map(one => one ? one.error : "not labeled").find(one => one) || "";
    const cells = one => one && !one.error ? [labelOf(one) ?? "", one.labels ? "" : String(one.probability)] : ["", ""];
    const fits = one => one && !one.error ? [String(one.none_of_these), String(one.typicality)] : ["", ""];
    const added = [...cells(own[0]), error, ...(tree ? [parents(own[0])] : []), ...(none ? fits(own[0]) : []), ...(compared ? [...cells(own[1]), complete ? (differ(own) ? "no" : "yes") : ""] : [])];
    lines.push([...row, ...new Array(Math.max(0, head.length - row.length)).fill(""), ...added]);
  });
  return lines;
}

async function labelFile() {
  const {found, separator} = rows, body = found.slice(1), column = Number($("column").value), said = $("file-said"), progress = $("progress");
  const wanted = wantedModels(), answers = wanted.map(() => new Array(body.length)), file = name, [fields, chunk] = further();
  stopped = false;
  for (const id of ["label", "column", "file"]) $(id).disabled = true;
  $("stop").hidden = progress.hidden = false;
  $("download").hidden = true;
  $("row-errors").replaceChildren();
  $("differences").replaceChildren();
  progress.value = 0;
  said.className = "gap";
  let next = 0, done = 0, failure = null;
  async function send() {
    while (next < body.length && !stopped) {
      const start = next, part = body.slice(start, start + chunk), texts = part.map(row => row[column] ?? "");
      next += part.length;
      const replies = await Promise.all(wanted.map(model => ask("/v1/classify", {texts, top_k: 1, ...(model && {model}), ...fields})));
      replies.forEach((reply, place) => reply.results.forEach((one, index) => { answers[place][start + index] = one; }));
      done += part.length;
      progress.value = done / body.length;
      said.textContent = `${done} of ${body.length} rows`;
    }
  }
  const sender = () => send().catch(error => { stopped = true; failure = error; });
  await Promise.all([sender(), sender()]);

  const rowsOf = index => answers.map(of => of[index]), every = body.map((_, index) => index);
  const problems = every.filter(index => rowsOf(index).some(one => one && one.error));
  const both = every.filter(index => wanted.length > 1 && rowsOf(index).every(one => one && !one.error)), differing = both.filter(index => differ(rowsOf(index)));
  if (done) {
    const csv = labeled(found, answers, wanted).map(line => line.map(field => written(field, separator)).join(separator)).join("\r\n") + "\r\n", link = $("download");
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([csv], {type: "text/csv"}));
    link.download = file.replace(/\.[^.]*$/, "") + "-labeled.csv";
    link.textContent = "Download " + link.download;
    link.hidden = false;
    link.focus();
  }
  const agreed = both.length ? ` The models agree on ${both.length - differing.length} of ${count(both.length, "row")}.` : "";
  if (done === body.length) said.textContent = `${body.length} rows done, ${problems.length} with an error.${agreed}`;
  else {
    said.textContent = `${failure ? "Error" : "Stopped"} after ${done} of ${body.length} rows${failure ? ": " + failure.message : ""}.`
      + (done ? ` The file holds the labels of these.${agreed}` : "");
    if (failure) said.className = "bad gap";
  }
  const shown = (list, indices, line, more) => {
    $(list).replaceChildren(...indices.slice(0, SHOWN_ROWS).map(index => element("li", line(index))));
    if (indices.length > SHOWN_ROWS) $(list).append(element("li", `and ${indices.length - SHOWN_ROWS} more, in the column ${more} of the file`));
  };
  shown("row-errors", problems, index => `Row ${index + 1}: ${rowsOf(index).find(one => one && one.error).error}`, "error");
  shown("differences", differing, index => `Row ${index + 1}: ${rowsOf(index).map(one => labelOf(one) ?? "no label").join(" or ")}? ${excerpt(body[index][column] ?? "")}`, "agree");
  for (const id of ["label", "column", "file"]) $(id).disabled = false;
  $("stop").hidden = progress.hidden = true;
}

$("classify").onclick = classify;
$("copy").onclick = copy;
$("example").onclick = example;
$("whole").onchange = sayHow;
$("only").onchange = showOnly;
$("model").onchange = () => { fillOther(); offerNone(); };
$("other").onchange = $("augment").onchange = offerNone;
$("column").onchange = preview;
$("texts").onkeydown = event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("classify").disabled) { event.preventDefault(); classify(); } };
$("file").onchange = () => $("file").files[0] && choose($("file").files[0]);
$("label").onclick = labelFile;
$("stop").onclick = () => { stopped = true; };
onToken(look);
// A file dropped beside the box must not replace the page.
window.ondragover = event => event.preventDefault();
window.ondrop = event => event.preventDefault();
$("drop").ondragenter = $("drop").ondragover = event => { event.preventDefault(); $("drop").classList.add("over-it"); };
$("drop").ondragleave = () => $("drop").classList.remove("over-it");
$("drop").ondrop = event => {
  event.preventDefault();
  $("drop").classList.remove("over-it");
  if (event.dataTransfer.files[0] && !$("file").disabled) choose(event.dataTransfer.files[0]);
};
look();
setInterval(() => { if (!document.hidden && $("token-form").hidden) look(); }, 10000);
