// Drawing: the image with a map over it, the outline of the object, and the brush's circle.

// Return a canvas of size width x height on which a map is painted in colours, weak attention being see-through.
export function coloured(values, width, height, colours, opacity) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const out = context.createImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    const v = Math.round(values[i]);
    out.data.set(colours.subarray(3 * v, 3 * v + 3), 4 * i);
    out.data[4 * i + 3] = 255 * opacity * Math.min(1, v / 160);
  }
  context.putImageData(out, 0, 0);
  return canvas;
}

export function paint(canvas, image, layer, smooth = true) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = true;
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = smooth;
  if (layer) context.drawImage(layer, 0, 0, canvas.width, canvas.height);
}

// The outline of a mask (bytes, size x size) or of boxes [[x0, y0, x1, y1], ...] as a path in pixels of the map.
export function outline(mask, boxes, size) {
  const path = new Path2D();
  if (!mask) {
    for (const [x0, y0, x1, y1] of boxes ?? []) path.rect(x0, y0, x1 - x0, y1 - y0);
    return path;
  }
  const inside = (x, y) => x >= 0 && y >= 0 && x < size && y < size && mask[y * size + x] > 0;
  const edge = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  for (let y = 0; y <= size; y++) {
    for (let x = 0; x <= size; x++) {
      if (inside(x, y) !== inside(x, y - 1)) edge(x, y, x + 1, y);
      if (inside(x, y) !== inside(x - 1, y)) edge(x, y, x, y + 1);
    }
  }
  return path;
}

// A light line on a dark one is seen on any ground. `path` is in pixels of the map, `scale` screen pixels in each.
function stroke(context, path, scale, colour, width) {
  context.save();
  context.scale(scale, scale);
  for (const [style, wide] of [["#000a", width + 2], [colour, width]]) {
    context.strokeStyle = style;
    context.lineWidth = wide * devicePixelRatio / scale;
    context.stroke(path);
  }
  context.restore();
}

// Draw what lies over the picture: the object's outline, a shape that is being drawn, the brush or the cursor.
export function paintMarks(canvas, size, { truth, shape, brush, cell }) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / size;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (truth) stroke(context, truth, scale, "#fff", 1.5);
  const dashed = (path, colour, width) => {
    context.setLineDash([5 * devicePixelRatio / scale, 4 * devicePixelRatio / scale]);
    stroke(context, path, scale, colour, width);
    context.setLineDash([]);
  };
  const colour = brush?.remove ? "#ff7d88" : "#8df0ad";
  if (cell) {
    const path = new Path2D();
    path.rect(brush.x - cell[0] / 2, brush.y - cell[1] / 2, ...cell);
    stroke(context, path, scale, "#fff", 2);
  }
  if (shape) dashed(shape, colour, 2);
  if (!brush) return;
  if (brush.tool !== "brush") {
    const cross = new Path2D(), arm = 8 * devicePixelRatio / scale;
    cross.moveTo(brush.x - arm, brush.y);
    cross.lineTo(brush.x + arm, brush.y);
    cross.moveTo(brush.x, brush.y - arm);
    cross.lineTo(brush.x, brush.y + arm);
    return stroke(context, cross, scale, colour, 1.5);
  }
  const circle = (radius) => {
    const path = new Path2D();
    path.arc(brush.x, brush.y, Math.max(0.5, radius), 0, 2 * Math.PI);
    return path;
  };
  stroke(context, circle(brush.radius), scale, colour, 2);
  const core = brush.radius * (1 - brush.soft);
  if (brush.soft > 0.1 && core > 1) dashed(circle(core), "#fff8", 1);
}
