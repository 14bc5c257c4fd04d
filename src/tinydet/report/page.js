// A variant's legend shows and hides its lines within the same section.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of button.closest("section").querySelectorAll("." + button.dataset.group)) {
      part.classList.toggle("off", !shown);
    }
  });
}
// The slider chooses from which score boxes show, and counts again what was found at that score.
for (const slider of document.querySelectorAll(".controls input[type=range]")) {
  const section = slider.closest("section");
  const update = () => {
    const threshold = Number(slider.value) / 100;
    slider.nextElementSibling.textContent = threshold.toFixed(2);
    for (const cell of section.querySelectorAll("figure[data-objects]")) {
      let found = 0, wrong = 0;
      for (const box of cell.querySelectorAll("g[data-score]")) {
        const shown = Number(box.dataset.score) >= threshold;
        box.classList.toggle("off", !shown);
        if (shown && box.classList.contains("right")) found += 1;
        if (shown && box.classList.contains("wrong")) wrong += 1;
      }
      cell.querySelector(".tally").textContent = `${found} of ${cell.dataset.objects} found, ${wrong} wrong`;
    }
  };
  slider.addEventListener("input", update);
  update();
}
