"use strict";
// Starts NiiVue in a case of the report when a person opens it: browsers allow few WebGL contexts at once.
const bytes = (id) => {
  const text = atob(document.getElementById(id).textContent.trim());
  return Uint8Array.from(text, (character) => character.charCodeAt(0)).buffer;
};

const show = async (box) => {
  const status = box.querySelector(".status");
  try {
    const viewer = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, logLevel: "error",
      crosshairWidth: 0.5, crosshairWidthUnit: "percent",
    });
    await viewer.attachToCanvas(box.querySelector("canvas"));
    for (const name of ["image", "labels", "entropy"]) {
      await viewer.loadFromArrayBuffer(bytes(`${box.id}-${name}`), `${name}.nii.gz`);
    }
    viewer.volumes[1].setColormapLabel(JSON.parse(box.dataset.colours));
    viewer.setColormap(viewer.volumes[2].id, "warm");
    for (const input of box.querySelectorAll("input")) {
      const fade = () => viewer.setOpacity(Number(input.dataset.volume), Number(input.value));
      input.addEventListener("input", fade);
      fade();
    }
    viewer.updateGLVolume();
    status.textContent = "Scroll to go through the slices, click to move the cross.";
  } catch (error) {
    box.querySelector("canvas").hidden = true;
    status.textContent = `This browser cannot show the viewer (${error}). The pictures above show the case.`;
  }
};

for (const box of document.querySelectorAll("details.viewer")) {
  box.addEventListener("toggle", () => show(box), { once: true });
}
