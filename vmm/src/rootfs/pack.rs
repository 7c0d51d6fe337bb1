//! From a source to an image.

use std::path::PathBuf;
use std::time::Duration;

use super::defaults::Defaults;
use super::error::RootfsError;
use super::identity;
use super::merge;
use super::output::Output;
use crate::image::erofs::BLOCK_SIZE;
use crate::image::layout::{Layout, lay_out};
use crate::image::tree::{Content, Tree};

/// Longest /etc/passwd or /etc/group that is looked at.
const MAX_DATABASE: u64 = 4 << 20;

/// What a root file system is made of.
pub trait Source {
    /// Hands over the files, without the data of regular ones.
    fn take_tree(&mut self) -> Tree;

    /// Writes the data of regular files where the layout has them.
    ///
    /// # Errors
    ///
    /// If it cannot be read any more, or has changed.
    fn write_data(&mut self, layout: &Layout, output: &mut Output) -> Result<(), RootfsError>;
}

/// What a container image says about how to run it.
#[derive(Debug, Default)]
pub struct Container {
    /// Its name, for messages.
    pub path: PathBuf,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub command: Vec<String>,
    /// `Env`.
    pub environment: Vec<String>,
    /// `WorkingDir`.
    pub directory: String,
    /// `User`: names or numbers.
    pub user: String,
}

/// Where a file of the tree got its data.
fn data_of(tree: &Tree, layout: &Layout, path: [&[u8]; 2]) -> Option<(u64, u64)> {
    let node = merge::find(tree, &path, true)?;
    let Content::Stored { data, length } = tree.nodes()[node].content else { return None };
    let &(_, offset, _) = layout.stored.iter().find(|(stored, ..)| *stored == data)?;
    (length <= MAX_DATABASE).then_some((offset, length))
}

/// Writes the image of a source, and behind it how it is run.
///
/// # Errors
///
/// If the source cannot be read, or the image cannot be written.
pub fn write(
    source: &mut dyn Source,
    container: Option<Container>,
    output: &mut Output,
) -> Result<(), RootfsError> {
    let tree = source.take_tree();
    // Nothing in an image depends on when it was made.
    let layout = lay_out(&tree, Duration::ZERO)?;
    let databases =
        [b"passwd".as_slice(), b"group"].map(|name| data_of(&tree, &layout, [b"etc", name]));
    drop(tree);
    output.progress.expect(layout.stored.iter().map(|(_, _, length)| length).sum());
    let end = u64::from(layout.blocks) * BLOCK_SIZE;
    output.set_length(end)?;
    output.write(&layout.head, 0)?;
    source.write_data(&layout, output)?;
    let Some(container) = container else { return Ok(()) };
    let mut texts = [String::new(), String::new()];
    for (text, place) in texts.iter_mut().zip(databases) {
        if let Some((offset, length)) = place {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            output.read(&mut bytes, offset)?;
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    let [passwd, group] = texts;
    let user = identity::resolve(&container.user, &passwd, &group).map_err(|reason| {
        let reason = format!("cannot be run as it wants: {reason}");
        RootfsError::Container { path: container.path, reason }
    })?;
    let defaults = Defaults {
        entrypoint: container.entrypoint,
        command: container.command,
        environment: container.environment,
        directory: container.directory,
        user: user.user,
        group: user.group,
        groups: user.groups,
        home: user.home,
    };
    output.write(&defaults.encode(), end)
}
