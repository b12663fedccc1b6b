/* Narrow pages: names break at "_" and ".", wide tables say that they scroll, tables of text become lists. */
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector(".bd-article");
  if (!article) return;

  // The text nodes of an element.
  const textsOf = (element) => {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    return texts;
  };

  // Names break behind "_", ".", "=" and so on; short ones and options do not break.
  const stays = (text) => text.length <= 14 || /^--?[\w-]{1,20}$/.test(text);
  const names = "code.literal, table.autosummary code";
  for (const code of article.querySelectorAll(names)) {
    if (stays(code.textContent)) code.classList.add("short");
    else if (/^[\w.]{1,24}$/.test(code.textContent)) code.classList.add("name");
    for (const word of code.querySelectorAll(".pre")) if (stays(word.textContent)) word.classList.add("short");
  }
  for (const name of document.querySelectorAll(`${names}, .prev-next-title, .bd-sidebar-primary nav a`)) {
    for (const text of textsOf(name)) {
      const parts = text.data.split(/(?<=[_.=,/])(?=[\w"])/);
      if (parts.length < 2 || stays(text.data)) continue;
      const pieces = parts.flatMap((part) => [part, document.createElement("wbr")]);
      text.replaceWith(...pieces.slice(0, -1));
    }
  }

  // Options such as --layer stay whole in blocks of code.
  for (const block of article.querySelectorAll("div[class*='highlight'] pre")) {
    for (const text of textsOf(block)) {
      if (!/(^|\s)--?\w/.test(text.data)) continue;
      const parts = text.data.split(/((?:^|(?<=\s))--?[\w-]+)/).map((part) => {
        if (!/^--?[\w-]+$/.test(part) || part.length > 30) return part;
        const whole = document.createElement("span");
        whole.className = "whole";
        whole.textContent = part;
        return whole;
      });
      text.replaceWith(...parts);
    }
  }

  // A table of text becomes a list of its rows on a telephone; the names of the columns go with the cells.
  const number = /^\s*([−–\-+±]?\.?\d|–\s*$|$)/;
  for (const table of article.querySelectorAll("table.table:not(.dataframe, .autosummary)")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    const rows = [...table.querySelectorAll("tbody tr")];
    const cells = rows.flatMap((row) => [...row.cells].slice(1));
    const numbers = cells.filter((cell) => number.test(cell.textContent)).length;
    if (heads.length < 3 || 2 * numbers > cells.length) continue;
    table.classList.add("rows");
    for (const row of rows)
      [...row.cells].forEach((cell, i) => {
        cell.dataset.column = heads[i] || "";
        cell.classList.toggle("empty", !cell.textContent.trim());
      });
  }

  // What scrolls sideways fades out at the side where more of it is; a table says so.
  const watch = (box) => {
    const mark = () => {
      const rest = box.scrollWidth - box.clientWidth;
      box.classList.toggle("more-right", rest > 4 && box.scrollLeft < rest - 4);
      box.classList.toggle("scrolls", rest > 4);
    };
    box.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(box);
    mark();
  };
  for (const box of article.querySelectorAll(".pst-scrollable-table-container")) {
    const hint = document.createElement("p");
    hint.className = "scroll-hint";
    hint.setAttribute("aria-hidden", "true");
    hint.textContent = "Scroll sideways for more columns →";
    box.after(hint);
    watch(box);
  }
  window.addEventListener("load", () =>
    window.MathJax?.startup?.promise?.then(() =>
      article.querySelectorAll("div.math mjx-container").forEach(watch),
    ),
  );
});
