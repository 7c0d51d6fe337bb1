//! What the members of an archive do to a tree: each replaces what has its name, and finds its
//! directory through the symbolic links of the members before it, never outside of the root.

use std::collections::BTreeMap;

use crate::image::tree::{Attributes, Content, Node, NodeId, ROOT, Tree};

/// As many symbolic links may be followed in a path (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Longest name of a directory entry.
const NAME_MAX: usize = 255;

/// Splits the name of a member into components. Neither a leading slash nor `.` counts.
///
/// # Errors
///
/// Says why no file can have the name.
pub fn components(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut components = Vec::new();
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("whose name has a component '..'"),
            _ if component.len() > NAME_MAX => return Err("whose name is too long"),
            _ if component.contains(&0) => return Err("whose name has a NUL byte"),
            _ => components.push(component),
        }
    }
    if name.len() >= 4096 { Err("whose name is too long") } else { Ok(components) }
}

fn entries(tree: &Tree, directory: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
    match &tree.nodes()[directory].content {
        Content::Directory(entries) => Some(entries),
        _ => None,
    }
}

fn insert(tree: &mut Tree, directory: NodeId, name: &[u8], node: NodeId) {
    if let Content::Directory(entries) = &mut tree.nodes_mut()[directory].content {
        entries.insert(name.to_vec(), node);
    }
}

fn new_directory() -> Node {
    Node::new(Content::Directory(BTreeMap::new()), Attributes::made_up(0o755))
}

/// What a name in a directory stands for.
pub fn child(tree: &Tree, directory: NodeId, name: &[u8]) -> Option<NodeId> {
    entries(tree, directory)?.get(name).copied()
}

/// Follows a path from the root, through symbolic links but for one at its end.
pub fn find(tree: &Tree, path: &[&[u8]], follow_last: bool) -> Option<NodeId> {
    let mut todo: Vec<Vec<u8>> = path.iter().rev().map(|name| name.to_vec()).collect();
    let mut above = vec![ROOT];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            _ => {}
        }
        let node = child(tree, *above.last()?, &name)?;
        match &tree.nodes()[node].content {
            Content::Symlink(target) if follow_last || !todo.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.first() == Some(&b'/') {
                    above.truncate(1);
                }
                todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
            }
            _ => above.push(node),
        }
    }
    above.last().copied()
}

/// The directory for a member: each component is a directory, or a symbolic link to one, or made.
/// What is something else is replaced by a directory, as the layers of a container image do it.
pub fn directory(tree: &mut Tree, path: &[&[u8]]) -> NodeId {
    let mut at = ROOT;
    for (index, name) in path.iter().enumerate() {
        let existing = child(tree, at, name);
        let found = existing.and_then(|node| match &tree.nodes()[node].content {
            Content::Directory(_) => Some(node),
            Content::Symlink(_) => {
                find(tree, &path[..=index], true).filter(|&target| entries(tree, target).is_some())
            }
            _ => None,
        });
        at = match found {
            Some(node) => node,
            None => add(tree, at, name, new_directory()),
        };
    }
    at
}

/// Puts a node at a place, instead of what is there.
pub fn add(tree: &mut Tree, directory: NodeId, name: &[u8], node: Node) -> NodeId {
    let id = tree.nodes().len();
    tree.nodes_mut().push(node);
    insert(tree, directory, name, id);
    id
}

/// Gives a node one more name.
pub fn link(tree: &mut Tree, directory: NodeId, name: &[u8], node: NodeId) {
    insert(tree, directory, name, node);
}

/// Removes a name of a directory, or all of them, with all that is below, except for what is to be kept and
/// the directories that lead there.
pub fn prune(
    tree: &mut Tree,
    directory: NodeId,
    name: Option<&[u8]>,
    is_kept: impl Fn(NodeId, &[u8]) -> bool,
) {
    let mut found: Vec<(NodeId, Vec<u8>, NodeId)> = Vec::new();
    let all = entries(tree, directory).into_iter().flatten();
    let these = all.filter(|(entry, _)| name.is_none_or(|name| entry.as_slice() == name));
    found.extend(these.map(|(name, &node)| (directory, name.clone(), node)));
    let mut next = 0;
    while let Some(&(_, _, node)) = found.get(next) {
        let below = entries(tree, node).into_iter().flatten();
        found.extend(below.map(|(name, &below)| (node, name.clone(), below)));
        next += 1;
    }
    // What is below comes first.
    for (directory, name, node) in found.into_iter().rev() {
        let leads_somewhere = entries(tree, node).is_some_and(|entries| !entries.is_empty());
        if !leads_somewhere
            && !is_kept(directory, &name)
            && let Content::Directory(entries) = &mut tree.nodes_mut()[directory].content
        {
            entries.remove(&name);
        }
    }
}

/// Puts the nodes that can be reached into one order, which depends on nothing but their names, and
/// drops all others.
pub fn compact(tree: Tree) -> Tree {
    let mut new_id: Vec<Option<NodeId>> = vec![None; tree.nodes().len()];
    let mut order = Vec::with_capacity(tree.nodes().len());
    let mut todo = vec![ROOT];
    while let Some(node) = todo.pop() {
        if new_id[node].is_some() {
            continue;
        }
        new_id[node] = Some(order.len());
        order.push(node);
        if let Some(entries) = entries(&tree, node) {
            // Files come right behind their directory, then its directories.
            let is_directory = |id: &NodeId| entries_of(&tree, *id);
            todo.extend(entries.values().rev().copied().filter(|id| is_directory(id)));
            todo.extend(entries.values().rev().copied().filter(|id| !is_directory(id)));
        }
    }
    let mut nodes: Vec<Option<Node>> = tree.into_nodes().into_iter().map(Some).collect();
    let mut kept = Vec::with_capacity(order.len());
    for old in order {
        let Some(mut node) = nodes[old].take() else { continue };
        if let Content::Directory(entries) = &mut node.content {
            for id in entries.values_mut() {
                *id = new_id[*id].unwrap_or(ROOT);
            }
        }
        kept.push(node);
    }
    Tree::of(kept)
}

fn entries_of(tree: &Tree, node: NodeId) -> bool {
    entries(tree, node).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<&[u8]> {
        text.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect()
    }

    fn file() -> Node {
        Node::new(Content::Bytes(b"x".as_slice().into()), Attributes::made_up(0o644))
    }

    fn symlink(target: &str) -> Node {
        Node::new(Content::Symlink(target.into()), Attributes::made_up(0o777))
    }

    #[test]
    fn names_that_lead_outside_are_refused() {
        assert_eq!(components(b"/a//./b/").unwrap(), path("a/b"));
        assert_eq!(components(b"./").unwrap(), path(""));
        for bad in [b"..".as_slice(), b"a/../b", b"/..", b"a\0", &[b'x'; 256]] {
            assert!(components(bad).is_err(), "{bad:?}");
        }
        assert!(components(&b"x/".repeat(2048)).is_err());
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let mut tree = Tree::new();
        let lib = directory(&mut tree, &path("usr/lib"));
        add(&mut tree, ROOT, b"lib", symlink("usr/lib"));
        add(&mut tree, ROOT, b"out", symlink("../../../../usr"));
        add(&mut tree, ROOT, b"loop", symlink("loop"));
        add(&mut tree, lib, b"file", file());
        assert_eq!(directory(&mut tree, &path("lib")), lib);
        assert_eq!(directory(&mut tree, &path("out/lib")), lib);
        assert!(find(&tree, &path("out/lib/file"), true).is_some());
        assert_eq!(find(&tree, &path("loop"), true), None);
        // What cannot be followed gives way.
        let made = directory(&mut tree, &path("loop/x"));
        assert_eq!(find(&tree, &path("loop/x"), true), Some(made));
        let made = directory(&mut tree, &path("usr/lib/file/y"));
        assert_eq!(find(&tree, &path("lib/file/y"), true), Some(made));
    }

    #[test]
    fn pruning_leaves_what_is_kept_and_the_way_there() {
        let mut tree = Tree::new();
        for name in ["a/old/deep", "a/both", "a/both/empty"] {
            directory(&mut tree, &path(name));
        }
        let both = directory(&mut tree, &path("a/both"));
        add(&mut tree, both, b"new", file());
        add(&mut tree, both, b"old", file());
        let a = directory(&mut tree, &path("a"));
        prune(&mut tree, a, None, |directory, name| directory == both && name == b"new");
        assert!(find(&tree, &path("a/both/new"), true).is_some());
        for gone in ["a/old", "a/both/old", "a/both/empty"] {
            assert_eq!(find(&tree, &path(gone), true), None, "{gone}");
        }
        prune(&mut tree, ROOT, Some(b"a"), |_, _| false);
        assert_eq!(find(&tree, &path("a"), true), None);
    }

    #[test]
    fn what_is_replaced_is_gone() {
        let mut tree = Tree::new();
        let a = directory(&mut tree, &path("a"));
        let one = add(&mut tree, a, b"one", file());
        link(&mut tree, a, b"two", one);
        add(&mut tree, a, b"three", file());
        prune(&mut tree, a, Some(b"three"), |_, _| false);
        let tree = compact(tree);
        assert_eq!(tree.nodes().len(), 3);
        let (one, two) = (find(&tree, &path("a/one"), true), find(&tree, &path("a/two"), true));
        assert!(one.is_some() && one == two);
    }
}
