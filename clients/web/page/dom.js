// Small things that every part of the page uses.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// What the page's own address says of `name`, to be said to the gateway as well.
export function asked(name) {
  const value = new URLSearchParams(location.search).get(name);
  return value === null ? {} : { [name]: value };
}

// A choice of this browser's user, kept for the next visit where the browser keeps anything.
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`frameloom.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Whether it is kept: in a private window it is forgotten with the page. */
export function remember(name, value) {
  try {
    localStorage.setItem(`frameloom.${name}`, value);
  } catch {
    return false;
  }
  return true;
}
