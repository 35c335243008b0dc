//! Checks that a reviewer shouldn't have to make: who uses whom (ARCHITECTURE.md), how long files and
//! functions are, what was left over, and that each invariant names a test that exists.
//!
//! It reads text, not syntax trees: a name built by a macro escapes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// A source file, and its text with comments and literals blanked out, line for line.
struct Source {
    /// Relative to the package.
    path: PathBuf,
    text: String,
    code: String,
}

impl Source {
    /// `src/journal/mod.rs` is `journal`, `src/journal/record.rs` is `journal::record`, and `tests/kill.rs`
    /// is `kill`.
    fn module(&self) -> String {
        let inside = self.path.components().skip(1).map(|part| part.as_os_str().to_string_lossy());
        let parts: Vec<String> = inside.map(|part| part.trim_end_matches(".rs").to_owned()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| *part != "mod").collect();
        parts.join("::")
    }

    /// The code before the tests, which stand last.
    fn code_without_tests(&self) -> &str {
        // A test module in its own file (`mod tests;`) may be declared anywhere.
        let is_inline = |(at, matched): &(usize, &str)| {
            let name = self.code.get(at + matched.len()..).unwrap_or_default();
            name.trim_start_matches(|part: char| part.is_alphanumeric() || part == '_').starts_with(" {")
        };
        let first = self.code.match_indices("#[cfg(test)]\nmod ").find(is_inline);
        self.code.get(..first.map_or(self.code.len(), |(at, _)| at)).unwrap_or_default()
    }
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting = vec![package().join(directory)];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(package()).expect("inside").to_owned();
                found.push(Source { path, code: blanked(&text), text });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

fn architecture() -> String {
    fs::read_to_string(package().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn modules_use_only_what_architecture_md_lets_them() {
    let table = import_table(&architecture());
    let known: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    let mut complaints = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let owner = module.split("::").next().unwrap_or_default().to_owned();
        if owner == "lib" || owner == "main" || module.ends_with("tests") {
            continue;
        }
        let place = source.path.display();
        let Some(allowed) = table.get(&owner) else {
            complaints.push(format!("{place}: {owner} is missing in the import table of ARCHITECTURE.md"));
            continue;
        };
        for (line, used) in crate_uses(source.code_without_tests()) {
            let is_known = known.contains(used.as_str());
            if is_known && used != owner && !allowed.contains(&used) && !allowed.contains("*") {
                complaints.push(format!("{place}:{line}: {owner} may not use {used}"));
            }
        }
        let is_root = !module.contains("::");
        for (index, line) in source.code_without_tests().lines().enumerate() {
            if is_root && (line.starts_with("use super::") || line.starts_with("pub use super::")) {
                complaints.push(format!("{place}:{}: name the module as crate::, not super::", index + 1));
            }
        }
        seen.insert(owner);
    }
    let gone = table.keys().filter(|module| !seen.contains(*module));
    complaints.extend(gone.map(|module| format!("ARCHITECTURE.md: there is no module {module}")));
    assert_none(&complaints);
}

#[test]
fn files_and_functions_are_short() {
    let mut complaints = Vec::new();
    for source in sources("src") {
        let place = source.path.display();
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{place}: must have at most {FILE_LINES_MAX} lines; got {lines}"));
        }
        for Function { name, line, lines } in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                complaints.push(format!(
                    "{place}:{line}: fn {name} must have at most {FUNCTION_LINES_MAX} lines; got {lines}"
                ));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_is_left_over() {
    let mut complaints = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        for (index, line) in source.code.lines().enumerate() {
            for macro_name in ["todo!", "dbg!", "unimplemented!", "#[ignore"] {
                if line.contains(macro_name) {
                    complaints.push(format!("{}:{}: {macro_name}", source.path.display(), index + 1));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let tests = all_tests();
    let text = architecture();
    let named: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("test: ")).collect();
    assert!(!named.is_empty(), "ARCHITECTURE.md names no test");
    let missing = named.iter().map(|name| name.trim_matches('`')).filter(|name| !tests.contains(*name));
    assert_none(&missing.map(|name| format!("ARCHITECTURE.md: there is no test {name}")).collect::<Vec<_>>());
}

#[test]
fn every_threat_names_tests_and_checks_that_exist() {
    let tests = all_tests();
    let text = fs::read_to_string(package().join("docs/threat-model.md")).expect("docs/threat-model.md");
    let mut complaints = Vec::new();
    let mut shown = 0;
    for threat in text.lines().filter(|line| line.matches(" | ").count() >= 4 && line.starts_with("| ")) {
        let Some(cell) = threat.split(" | ").nth(3) else { continue };
        // Every other piece stands between backquotes.
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        for name in &named {
            let exists =
                if name.starts_with(".ci/") { package().join(name).exists() } else { tests.contains(*name) };
            if !exists {
                complaints.push(format!("docs/threat-model.md: there is no {name}"));
            }
        }
        let is_heading = cell == "shown by";
        if named.is_empty() && !is_heading {
            complaints.push(format!("docs/threat-model.md: nothing shows that this is held: {threat}"));
        }
        shown += named.len();
    }
    assert!(shown > 40, "docs/threat-model.md names {shown} tests: its table isn't read as it should be");
    assert_none(&complaints);
}

/// The full name of every test of the package.
fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        let module = source.module();
        let is_inline = source.path.starts_with("src") && !module.ends_with("tests");
        let inline = if is_inline { "::tests" } else { "" };
        tests.extend(test_names(&source.code).into_iter().map(|name| format!("{module}{inline}::{name}")));
    }
    tests
}

/// The lines `module: a b c` of the block fenced as `imports`.
fn import_table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let block = text.split("```imports\n").nth(1).and_then(|rest| rest.split("```").next());
    block
        .expect("ARCHITECTURE.md has a block fenced as imports")
        .lines()
        .map(|line| {
            let (module, used) = line.split_once(':').expect("module: a b c");
            (module.trim().to_owned(), used.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

/// The first name after every `crate::`, with its line; all first names of a `crate::{…}` group.
fn crate_uses(code: &str) -> Vec<(usize, String)> {
    let mut uses = Vec::new();
    for (start, matched) in code.match_indices("crate::") {
        let before = code.get(..start).unwrap_or_default();
        // `$crate::` counts too, `mycrate::` doesn't.
        if before.ends_with(|end: char| end.is_alphanumeric() || end == '_') {
            continue;
        }
        let line = before.matches('\n').count() + 1;
        let rest = code.get(start + matched.len()..).unwrap_or_default();
        match rest.strip_prefix('{') {
            None => uses.push((line, identifier(rest))),
            Some(group) => uses.extend(group_heads(group).into_iter().map(|name| (line, name))),
        }
    }
    uses
}

/// The names directly inside a brace group, whose opening brace is already consumed.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 1;
    let mut at_head = true;
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => at_head = true,
            other if at_head && !other.is_whitespace() => {
                heads.push(identifier(group.get(index..).unwrap_or_default()));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Every function with a body, from the line of its `fn` to the one of its closing brace.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let before = code.get(..start).unwrap_or_default();
        if before.ends_with(|end: char| end.is_alphanumeric() || end == '_') {
            continue;
        }
        let rest = code.get(start..).unwrap_or_default();
        let name = identifier(rest.get(3..).unwrap_or_default());
        if let (false, Some(body_end)) = (name.is_empty(), body_end(rest)) {
            let lines = rest.get(..body_end).unwrap_or_default().matches('\n').count() + 1;
            found.push(Function { name, line: before.matches('\n').count() + 1, lines });
        }
    }
    found
}

/// Where the function that `code` begins with ends; none if it has no body.
fn body_end(code: &str) -> Option<usize> {
    let mut brackets = 0_usize;
    let mut braces = 0_usize;
    for (index, character) in code.char_indices() {
        match character {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces <= 1 => return (braces == 1).then_some(index),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// Names of functions under `#[test]` or another attribute that ends in `test]`.
fn test_names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line == "#[test]" || line.contains("::test]") || line.contains("::test(");
        } else if let Some(at) = line.find("fn ").filter(|_| is_test) {
            names.push(identifier(line.get(at + 3..).unwrap_or_default()));
            is_test = false;
        } else if !line.is_empty() {
            is_test = false;
        }
    }
    names
}

/// The text with comments, strings and characters replaced by spaces; line breaks stay.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let after_name = out.ends_with(|end: char| end.is_alphanumeric() || end == '_');
        let length = literal_length(rest, after_name);
        let (piece, after) =
            rest.split_at(length.unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8)));
        if length.is_some() {
            out.extend(piece.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(piece);
        }
        rest = after;
    }
    out
}

/// The length of the comment, string or character that `text` begins with.
fn literal_length(text: &str, after_name: bool) -> Option<usize> {
    let until = |end: &str, from: usize| {
        let found = text.get(from..).and_then(|rest| rest.find(end));
        found.map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(until("*/", 2));
    }
    let prefixed = text.strip_prefix("br").or_else(|| text.strip_prefix('r')).filter(|_| !after_name);
    if let Some(raw) = prefixed {
        let hashes = raw.chars().take_while(|character| *character == '#').count();
        if raw.get(hashes..).is_some_and(|quoted| quoted.starts_with('"')) {
            let opening = text.len() - raw.len() + hashes + 1;
            return Some(until(&format!("\"{}", "#".repeat(hashes)), opening));
        }
    }
    if text.starts_with('"') {
        return Some(quoted_length(text, '"'));
    }
    // A quote that doesn't close after one character, escaped or not, begins a lifetime.
    let inner = text.strip_prefix('\'')?;
    let is_character = inner.starts_with('\\') || inner.chars().nth(1) == Some('\'');
    is_character.then(|| quoted_length(text, '\''))
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            end if end == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn literals_are_blanked_and_lifetimes_are_not() {
    let code = "a \"{ \\\" // }\" 'x' '\\'' b'{' &'a T // c }\nr#\"{\"{\"# /* { */ end";
    let blank = blanked(code);
    assert_eq!(blank.matches('{').count() + blank.matches('}').count(), 0, "{blank}");
    assert!(blank.contains("&'a T") && blank.ends_with(" end") && blank.contains('\n'), "{blank}");
}

#[test]
fn uses_functions_and_tests_are_found() {
    let code = "use crate::scan::X;\nuse crate::{\n    observe::{self, Metrics},\n    journal,\n};\n\
                fn long() -> [u8; 2] {\n    crate::store::f();\n}\nfn none(a: [u8; 2]);\n#[test]\nfn t() {}\n";
    let used: Vec<String> = crate_uses(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(used, ["scan", "observe", "journal", "store"]);
    let found: Vec<(String, usize)> =
        functions(code).into_iter().map(|found| (found.name, found.lines)).collect();
    assert_eq!(found, [("long".to_owned(), 3), ("t".to_owned(), 1)]);
    assert_eq!(test_names(code), ["t"]);
}
