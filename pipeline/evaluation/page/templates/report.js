"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells);
  const read = (row, column) => row.cells[column].textContent.trim();
  const number = text => parseFloat(text.replace(/[,%]/g, ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    return isNaN(x) || isNaN(y) ? a.localeCompare(b, undefined, {numeric: true}) : x - y;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("span");  // A real button vanishes from the heads of printed pages.
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); }
    });
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = Array.from(body.rows).sort((a, b) => {
        const [x, y] = [read(a, column), read(b, column)];
        return x === "–" || y === "–" ? (x === "–") - (y === "–") : compare(x, y) * (up ? 1 : -1);
      });
      body.append(...rows);
    });
  });
}
const map = document.getElementById("map"), readout = document.getElementById("readout");
if (map && readout) {
  const {names, cells} = JSON.parse(document.getElementById("map-data").textContent);
  const counts = new Map(cells.map(([row, column, count]) => [row * names.length + column, count]));
  const totals = new Map();
  for (const [row, , count] of cells) totals.set(row, (totals.get(row) || 0) + count);
  readout.hidden = false;
  map.addEventListener("pointermove", event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const row = Math.floor(at.y / 10), column = Math.floor(at.x / 10);
    if (row < 0 || column < 0 || row >= names.length || column >= names.length) return;
    const count = counts.get(row * names.length + column) || 0;
    readout.textContent = "true " + names[row] + ", predicted " + names[column] + ": " + count + " of "
      + (totals.get(row) || 0);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
