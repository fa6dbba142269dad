// The slider of the threshold. Without this file, the number beside it does the same.
const slider = document.querySelector("#slider");
if (slider) {
  const number = document.querySelector("#threshold");
  slider.hidden = false;
  slider.addEventListener("input", () => {
    number.value = slider.value;
    const hits = [...document.querySelectorAll("#hits li")];
    for (const hit of hits) hit.classList.toggle("below", Number(hit.dataset.similarity) < slider.valueAsNumber);
  });
  slider.addEventListener("change", () => slider.form.requestSubmit());
}
