// The slider of the threshold. Without this file, the number beside it does the same.
const slider = document.querySelector("#slider");
if (slider) {
  const number = document.querySelector("#threshold");
  slider.hidden = false;
  slider.addEventListener("input", () => {
    number.value = slider.valueAsNumber.toFixed(4);
    for (const hit of document.querySelectorAll("#hits li"))
      hit.classList.toggle("below", Number(hit.dataset.similarity) < Number(number.value));
  });
  slider.addEventListener("change", () => slider.form.requestSubmit());
}
