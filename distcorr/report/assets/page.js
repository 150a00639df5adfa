"use strict";
// Filters, sorting, the dialog and copy buttons; without it the page shows everything.
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];

  // -- filters: a card is shown if it agrees with every choice --------------------------------
  const form = document.querySelector(".filters");
  const cards = all(".card");
  const choose = () => {
    const wanted = all("select", form).filter((each) => each.value);
    let count = 0;
    for (const card of cards) {
      card.hidden = wanted.some((each) => card.dataset[each.dataset.filter] !== each.value);
      count += !card.hidden;
    }
    document.getElementById("count").value = `${count} of ${cards.length} shown`;
  };
  if (form) {
    form.hidden = false;
    form.addEventListener("change", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
  }

  // -- the dialog: a larger picture, and what stands in the template after the card ------------
  const dialog = document.getElementById("dialog");
  const shown = document.getElementById("shown");
  const open = (card) => {
    const photo = card.querySelector(".photo").cloneNode(true);
    photo.querySelector("image").removeAttribute("id"); // the card's own is what maps show again
    shown.replaceChildren(photo, card.nextElementSibling.content.cloneNode(true));
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  const beside = (step) => {
    const visible = cards.filter((card) => !card.hidden);
    const next = visible[visible.indexOf(dialog.card) + step];
    if (next) open((dialog.card = next));
  };
  for (const card of cards) card.addEventListener("click", () => open((dialog.card = card)));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.card && dialog.card.focus());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      dialog.close();
      beside(step);
    }
  });

  // A neighbour and its vote stand out together, whichever is pointed at.
  const point = (event) => {
    const vote = event.target.closest("[data-vote]")?.dataset.vote;
    for (const each of all("[data-vote]", shown))
      each.classList.toggle("on", each.dataset.vote === vote);
  };
  for (const kind of ["pointerover", "focusin"]) shown.addEventListener(kind, point);

  // -- sorting: by number where there is one ----------------------------------------------------
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v || cell.textContent.replace(/,/g, "").replace("−", "-").trim();
    const number = parseFloat(text);
    return Number.isNaN(number) || !/^[-+]?[\d.]/.test(text) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  for (const table of all("table.sort")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // -- copy buttons ------------------------------------------------------------------------------
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea"); // a page from a disk may have no clipboard
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await copied(button.dataset.copy);
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  }

  // -- where the reader is -----------------------------------------------------------------------
  const marks = new Map(all("nav a").map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        marks.forEach((a) => a.classList.remove("here"));
        marks.get(entry.target.id)?.classList.add("here");
      }
    },
    { rootMargin: "-15% 0px -80% 0px" },
  );
  all("main > section").forEach((section) => seen.observe(section));
})();
