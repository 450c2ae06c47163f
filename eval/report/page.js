/* The first click on a column of figures puts the highest on top, on a column of names A; the next one reverses the
   order. Rows without a figure stay at the bottom. */
const figure = text => /^[+-]?[0-9]/.test(text) ? parseFloat(text) : NaN;
const plain = text => /^[+-]?[0-9.]+( to [+-]?[0-9.]+.*)?$/.test(text);
const absent = text => text === "" || text === "\u2013";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const cells = [...table.tBodies[0].rows].map(row => ({ row, text: row.cells[column].textContent }));
    const known = cells.filter(cell => !absent(cell.text));
    const numeric = known.length > 0 && known.every(cell => plain(cell.text));
    const now = head.getAttribute("aria-sort");
    const falling = numeric ? now !== "descending" : now === "ascending";
    const order = numeric ? (a, b) => figure(a.text) - figure(b.text) : (a, b) => a.text.localeCompare(b.text);
    known.sort((a, b) => falling ? order(b, a) : order(a, b));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    table.tBodies[0].append(...[...known, ...cells.filter(cell => absent(cell.text))].map(cell => cell.row));
  }));
}
for (const field of document.querySelectorAll("input[type=search]")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of field.nextElementSibling.querySelectorAll("tbody tr")) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every(word => name.includes(word));
    }
  });
}
