// Small settings of this browser. Where storage is blocked they last as long as the page.

const here = new Map();

export function recall(key) {
  try {
    return localStorage.getItem(key) ?? here.get(key) ?? null;
  } catch {
    return here.get(key) ?? null;
  }
}

export function remember(key, value) {
  here.set(key, value);
  try {
    localStorage.setItem(key, value);
  } catch {
    // For as long as the page lasts, then.
  }
}

export function drop(key) {
  here.delete(key);
  try {
    localStorage.removeItem(key);
  } catch {
    // It never got there.
  }
}
