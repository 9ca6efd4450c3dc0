"use strict";
// Sorting and filtering of tables. Without scripts the page is complete, only not sortable.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const original = Array.from(body.rows);
  const headings = Array.from(table.querySelectorAll("th[data-column]"));

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  for (const heading of headings) {
    const column = Number(heading.dataset.column);
    heading.querySelector("button").addEventListener("click", () => {
      const numeric = heading.classList.contains("number");
      const order = { none: numeric ? "descending" : "ascending", ascending: numeric ? "none" : "descending",
        descending: numeric ? "ascending" : "none" }[heading.getAttribute("aria-sort") || "none"];
      for (const other of headings) other.setAttribute("aria-sort", other === heading ? order : "none");
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? original : original
        .map((row) => [valueOf(row, column), row])
        .sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b))
        .map(([, row]) => row);
      table.classList.toggle("sorted", order !== "none");
      body.append(...rows);
    });
  }

  const filter = document.querySelector(`input[data-filters="${table.id}"]`);
  if (filter) {
    const count = document.getElementById(`${table.id}-count`);
    const texts = original.map((row) => row.textContent.toLowerCase());
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      original.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? `${shown} of ${original.length} rows` : "";
    });
  }
}
