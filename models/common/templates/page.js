"use strict";
// What every report does: sorting and saving tables, copying commands, light and dark.
for (const button of document.querySelectorAll("[data-csv], [data-copy], #theme")) button.hidden = false;

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head));
  }
}

function valueOf(cell) {
  return cell.dataset.value ?? cell.textContent;
}

function sort(table, head) {
  const falling = head.ariaSort === "ascending";
  const column = head.cellIndex;
  const numeric = head.classList.contains("number");
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  head.ariaSort = falling ? "descending" : "ascending";
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
  rows.sort(([one], [other]) => {
    if (one === "" || other === "") return (one === "") - (other === ""); // what is not known comes last
    const order = numeric ? one - other : one.localeCompare(other, "en", { numeric: true });
    return falling ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function csvOf(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  const lines = [[...table.tHead.rows[0].cells].map((cell) => cell.dataset.name)];
  for (const row of table.tBodies[0].rows) lines.push([...row.cells].map(valueOf));
  return lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
}

for (const button of document.querySelectorAll("[data-csv]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.csv;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf(document.getElementById("table-" + name))], { type: "text/csv" }));
    link.download = name + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } catch {
      getSelection().selectAllChildren(code); // where the clipboard is closed to pages from disk
    }
  });
}

const theme = document.getElementById("theme");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : darkSystem.matches;
}

function themeChanged() {
  theme.textContent = isDark() ? "Light" : "Dark";
  document.dispatchEvent(new Event("themechange"));
}

theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  themeChanged();
});
darkSystem.addEventListener("change", themeChanged);
themeChanged();
