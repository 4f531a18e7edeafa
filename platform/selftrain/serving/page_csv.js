// RFC 4180, with the separator that is most frequent in the first line.
function parse(text) {
  text = text.replace(/^\uFEFF/, "");
  const head = text.slice(0, text.search(/[\r\n]|$/)), parts = one => head.split(one).length;
  const separator = [",", ";", "\t"].reduce((best, one) => parts(one) > parts(best) ? one : best);
  const found = [];
  let row = [], field = "", quoted = false;
  for (let at = 0; at < text.length; at++) {
    const one = text[at];
    if (quoted) {
      if (one !== '"') field += one;
      else if (text[at + 1] === '"') { field += '"'; at++; }
      else quoted = false;
    } else if (one === '"' && field === "") quoted = true;
    else if (one === separator) { row.push(field); field = ""; }
    else if (one === "\n" || one === "\r") {
      if (one === "\r" && text[at + 1] === "\n") at++;
      row.push(field); field = "";
      if (row.length > 1 || row[0] !== "") found.push(row);
      row = [];
    } else field += one;
  }
  if (quoted) throw new Error("a quotation mark is opened and never closed");
  if (field !== "" || row.length) { row.push(field); found.push(row); }
  return {found, separator};
}
// A spreadsheet reads what begins like this as a formula, which can send other cells away; a number stays a number.
const harmless = field => /^[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/.test(field) && !/^[+-]?\d+([.,]\d+)?(e[+-]?\d+)?$/i.test(field) ? "'" + field : field;
function written(field, separator) {
  field = harmless(field);
  return /["\r\n]/.test(field) || field.includes(separator) ? '"' + field.replaceAll('"', '""') + '"' : field;
}
// Names of the added columns, as `selftrain predict` makes them where the file has them already.
function newColumns(head, compared, tree, none) {
  const taken = new Set(head);
  return ["label", "probability", "error", ...(tree ? ["parents"] : []), ...(none ? ["none_of_these", "typicality"] : []), ...(compared ? ["compared_label", "compared_probability", "agree"] : [])].map(one => {
    while (taken.has(one)) one = "predicted_" + one;
    taken.add(one);
    return one;
  });
}
