// Which language a page speaks: what was chosen here before, else the browser's first that the page knows.

import { recall, remember } from './memory.js';

const KEY = 'scangate.language';
const LANGUAGES = ['vi', 'en'];

function preferred() {
  const wanted = [recall(KEY), ...navigator.languages].filter(Boolean);
  const known = wanted.map((tag) => tag.toLowerCase().split('-')[0]).find((tag) => LANGUAGES.includes(tag));
  return known ?? 'vi';
}

export class Language {
  // `words`: a table of texts for each language. `changed` is called after each change.
  constructor(words, changed) {
    this.words = words;
    this.changed = changed;
    this.name = preferred();
    for (const button of document.querySelectorAll('[data-language]')) {
      button.addEventListener('click', () => this.choose(button.dataset.language));
    }
  }

  get other() {
    return LANGUAGES.find((name) => name !== this.name);
  }

  choose(name) {
    this.name = name;
    remember(KEY, name);
    this.apply();
  }

  // Writes every text that the page's markup names.
  apply() {
    document.documentElement.lang = this.name;
    document.title = this.say('document_title');
    for (const element of document.querySelectorAll('[data-t]')) {
      element.textContent = this.say(element.dataset.t);
    }
    for (const element of document.querySelectorAll('[data-t-label]')) {
      element.setAttribute('aria-label', this.say(element.dataset.tLabel));
    }
    for (const button of document.querySelectorAll('[data-language]')) {
      button.setAttribute('aria-pressed', String(button.dataset.language === this.name));
    }
    this.changed();
  }

  // A text with its {values} put in. Where the table has several forms, the value `n` chooses.
  say(key, values = {}, name = this.name) {
    const entry = this.words[name][key];
    const text = typeof entry === 'object' ? entry[new Intl.PluralRules(name).select(values.n)] : entry;
    if (text === undefined) throw new Error(`no text for ${key} in ${name}`);
    return text.replace(/\{(\w+)\}/g, (_, value) =>
      typeof values[value] === 'number' ? this.number(values[value], {}, name) : values[value],
    );
  }

  has(key) {
    return key in this.words[this.name];
  }

  number(value, options = {}, name = this.name) {
    return new Intl.NumberFormat(name, options).format(value);
  }

  time(date, name = this.name) {
    return new Intl.DateTimeFormat(name, { timeStyle: 'medium' }).format(date);
  }

  date(date) {
    return new Intl.DateTimeFormat(this.name, { dateStyle: 'medium' }).format(date);
  }
}
