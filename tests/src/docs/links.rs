//! Links between pages, and the book's table of contents: what they lead to is there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::page::Page;

/// Where a link leads, and the number of its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The page.
    pub page: String,
    /// The line.
    pub line: usize,
    /// As written.
    pub to: String,
}

/// The links of a page to places in the tree.
pub fn links(page: &Page) -> Vec<Link> {
    let of = |(line, text): (usize, &str)| {
        let found = targets(text).into_iter().filter(|to| !to.contains("://"));
        found.map(|to| Link { page: page.name.clone(), line, to }).collect::<Vec<_>>()
    };
    page.prose().into_iter().flat_map(of).collect()
}

/// What stands in `](...)`, outside of code.
fn targets(line: &str) -> Vec<String> {
    let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| rest.split_once(')')).map(|(to, _)| to.to_owned()).collect()
}

/// A heading's name in a link, as GitHub and mdBook both make it.
pub fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>();
    kept.trim().replace(' ', "-")
}

/// The names of a page's headings.
fn anchors(page: &Page) -> Vec<String> {
    let headings = page.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#'))).collect()
}

/// The links that lead nowhere. Other files than pages must exist below `root`.
pub fn broken(root: &Path, pages: &[Page]) -> Vec<String> {
    let known: BTreeMap<PathBuf, Vec<String>> =
        pages.iter().map(|page| (PathBuf::from(&page.name), anchors(page))).collect();
    let leads = |link: &Link| {
        let (file, anchor) = link.to.split_once('#').unwrap_or((&link.to, ""));
        let path = if file.is_empty() { PathBuf::from(&link.page) } else { joined(&link.page, file) };
        match known.get(&path) {
            Some(anchors) => anchor.is_empty() || anchors.iter().any(|known| known == anchor),
            None => anchor.is_empty() && root.join(path).exists(),
        }
    };
    let all = pages.iter().flat_map(links);
    all.filter(|link| !leads(link)).map(|link| format!("{}:{}: {}", link.page, link.line, link.to)).collect()
}

fn joined(page: &str, file: &str) -> PathBuf {
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    let mut whole = PathBuf::new();
    for part in folder.join(file).components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::page::{pages, root};
    use super::*;

    fn page(name: &str, text: &str) -> Page {
        Page { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        let text = "[a](b.md) [b](b.md#one-two) `[no](link)`\n[c](#here) [d](../README.md)\n# Here\n";
        let all = [page("docs/a.md", text), page("docs/b.md", "## One: two\n"), page("README.md", "")];
        assert_eq!(broken(Path::new("/nowhere"), &all), Vec::<String>::new());
        let wrong = [page("docs/a.md", "[a](c.md)\n\n[b](#x)\n")];
        assert_eq!(broken(Path::new("/nowhere"), &wrong), ["docs/a.md:1: c.md", "docs/a.md:3: #x"]);
    }

    #[test]
    fn every_page_of_docs_stands_in_the_book_once() {
        let pages = pages().unwrap();
        let summary = pages.iter().find(|page| page.name == "docs/SUMMARY.md").unwrap();
        let mut listed: Vec<String> =
            links(summary).into_iter().map(|link| format!("docs/{}", link.to)).collect();
        let mut there: Vec<String> = pages.iter().map(|page| page.name.clone()).collect();
        there.retain(|name| name.starts_with("docs/") && name != "docs/SUMMARY.md");
        listed.sort();
        there.sort();
        assert_eq!(listed, there);
    }

    #[test]
    fn no_link_of_a_page_leads_nowhere() {
        assert_eq!(broken(&root(), &pages().unwrap()), Vec::<String>::new());
    }
}
