//! Container images: OCI image layouts (directories or archives), and what `docker save` writes.
//!
//! Formats: the OCI image specification, "Image Layout", "Image Manifest" and "Image Configuration"; and
//! Docker's image specification v1.2 for `manifest.json`. Everything that has a digest is compared with it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::archive::{Archives, Layer, read_all};
use super::error::{RootfsError, damaged, reading};
use super::merge;
use super::output::Output;
use super::pack::Container;
use super::stream::decompressed;

/// Longest JSON document that is read.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Indexes may be nested; no one nests them deeper.
const MAX_INDEXES: usize = 4;

/// `index.json`, or an index among the blobs; a manifest has none of its fields.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    size: Option<u64>,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An element of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<Execution>,
    rootfs: Option<Rootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Where the files of a container image are.
#[derive(Debug)]
pub enum Store {
    /// In a directory.
    Directory(PathBuf),
    /// In a tar archive that is not compressed.
    Archive {
        /// The archive.
        file: File,
        /// Its name.
        path: PathBuf,
        /// Where its members lie.
        members: HashMap<Vec<u8>, (u64, u64)>,
    },
}

/// A file of the container image.
struct Part {
    file: File,
    start: u64,
    length: u64,
}

impl Store {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    fn error(&self, reason: impl Into<String>) -> RootfsError {
        RootfsError::Container { path: self.path().to_owned(), reason: reason.into() }
    }

    fn open(&self, name: &str) -> Result<Part, RootfsError> {
        let missing = || self.error(format!("has no '{name}', which its manifest names"));
        // Names in documents are anyone's: they stay inside.
        if merge::components(name.as_bytes()).is_err() || name.starts_with('/') {
            return Err(self.error(format!("names a file '{name}', which would be outside")));
        }
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                let file = File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(),
                    _ => reading(&path)(error),
                })?;
                let metadata = file.metadata().map_err(reading(&path))?;
                if !metadata.is_file() {
                    return Err(missing());
                }
                Ok(Part { file, start: 0, length: metadata.len() })
            }
            Self::Archive { file, path, members } => {
                let &(start, length) = members.get(name.as_bytes()).ok_or_else(missing)?;
                let file = file.try_clone().map_err(reading(path))?;
                Ok(Part { file, start, length })
            }
        }
    }

    fn document(&self, name: &str, digest: Option<&str>) -> Result<Vec<u8>, RootfsError> {
        let part = self.open(name)?;
        if part.length > MAX_DOCUMENT {
            return Err(self.error(format!("has a '{name}' that is too long")));
        }
        let bytes = read_all(&part.file, part.start, part.length).map_err(reading(self.path()))?;
        if let Some(digest) = digest {
            let found = hex(&Sha256::digest(&bytes));
            if found != *digest {
                return Err(self.wrong_digest(name));
            }
        }
        Ok(bytes)
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, RootfsError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.error(format!("has a '{name}' that is damaged: {error}")))
    }

    fn wrong_digest(&self, name: &str) -> RootfsError {
        self.error(format!("is damaged: the digest of '{name}' is wrong"))
    }

    /// The path of a blob, and its digest in hexadecimal.
    fn blob(&self, digest: &str) -> Result<(String, String), RootfsError> {
        let hexadecimal = digest.strip_prefix("sha256:").filter(|hexadecimal| {
            hexadecimal.len() == 64
                && hexadecimal.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match hexadecimal {
            Some(hexadecimal) => {
                Ok((format!("blobs/sha256/{hexadecimal}"), hexadecimal.to_owned()))
            }
            None => Err(self.error(format!("has a digest '{digest}', which is no SHA-256"))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the digest of what is read through it.
struct Hashing<R> {
    reader: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(reader: R) -> Self {
        Self { reader, hash: Sha256::new() }
    }

    /// Reads the rest; the digest of all.
    fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// A layer that is to be read.
struct Wanted {
    name: String,
    /// Digest of the blob.
    digest: Option<String>,
}

/// Whether a directory is an OCI image layout.
pub fn is_layout(path: &Path) -> bool {
    has_layout(|name| path.join(name).is_file())
}

fn has_layout(has: impl Fn(&str) -> bool) -> bool {
    has("oci-layout") && has("index.json")
}

/// Whether files of these names at its root make an archive that of a container image.
pub fn is_container(has: impl Fn(&str) -> bool) -> bool {
    has("manifest.json") || has_layout(has)
}

/// The image in a layout or archive: all layers, merged, and how it wants to be run.
///
/// # Errors
///
/// If parts are missing or damaged, or it is for another machine.
pub fn read(store: &Store, output: &mut Output) -> Result<(Archives, Container), RootfsError> {
    let has = |name: &str| match store {
        Store::Directory(path) => path.join(name).is_file(),
        Store::Archive { members, .. } => members.contains_key(name.as_bytes()),
    };
    let (configuration, layers) =
        if has_layout(has) { open_layout(store)? } else { open_saved(store)? };
    check_platform(store, &configuration)?;
    let diff_ids = configuration.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
    if diff_ids.len() != layers.len() {
        let (layers, ids) = (layers.len(), diff_ids.len());
        return Err(
            store.error(format!("is damaged: it has {layers} layers and {ids} digests of them"))
        );
    }
    let mut archives = Archives::new();
    for (wanted, diff_id) in layers.iter().zip(&diff_ids) {
        let (_, diff_id) = store.blob(diff_id)?;
        add_layer(store, &mut archives, wanted, &diff_id, output)?;
    }
    let execution = configuration.config.unwrap_or_default();
    let container = Container {
        path: store.path().to_owned(),
        entrypoint: execution.entrypoint.unwrap_or_default(),
        command: execution.cmd.unwrap_or_default(),
        environment: execution.env.unwrap_or_default(),
        directory: execution.working_dir.unwrap_or_default(),
        user: execution.user.unwrap_or_default(),
    };
    if container.directory.starts_with('/') {
        let directory = merge::components(container.directory.as_bytes());
        let directory =
            directory.map_err(|reason| store.error(format!("has a working directory {reason}")))?;
        // As docker does: it exists, whether or not a layer has it.
        merge::directory(archives.tree(), &directory);
    }
    Ok((archives, container))
}

fn check_platform(store: &Store, configuration: &Configuration) -> Result<(), RootfsError> {
    let Configuration { architecture, os, .. } = configuration;
    let fits = |value: &str, wanted: &str| value.is_empty() || value == wanted;
    if fits(architecture, "amd64") && fits(os, "linux") {
        return Ok(());
    }
    Err(store.error(format!("is an image for {os}/{architecture}; Airlock runs linux/amd64")))
}

fn add_layer(
    store: &Store,
    archives: &mut Archives,
    wanted: &Wanted,
    diff_id: &str,
    output: &mut Output,
) -> Result<(), RootfsError> {
    let Part { file, start, length } = store.open(&wanted.name)?;
    let label = store.path().join(&wanted.name);
    let layer = Layer::new(file, start, length, &label);
    let failed = damaged(&label);
    if let Some(digest) = &wanted.digest {
        // Before anything that it says is believed.
        if Hashing::new(layer.blob()?).finish().map_err(&failed)? != *digest {
            return Err(store.wrong_digest(&wanted.name));
        }
    }
    let mut content = Hashing::new(decompressed(layer.blob()?).map_err(&failed)?);
    archives.add(layer, &mut content, true, output)?;
    if content.finish().map_err(&failed)? != diff_id {
        return Err(store.wrong_digest(&wanted.name));
    }
    Ok(())
}

/// Follows an OCI layout to the configuration and the layers of its image for this machine.
fn open_layout(store: &Store) -> Result<(Configuration, Vec<Wanted>), RootfsError> {
    let mut name = "index.json".to_owned();
    let mut bytes = store.document(&name, None)?;
    for _ in 0..MAX_INDEXES {
        let index: Index = store.parse(&name, &bytes)?;
        let chosen = choose(store, &index.manifests)?;
        let digest;
        (name, digest) = store.blob(&chosen.digest)?;
        bytes = store.document(&name, Some(&digest))?;
        if !chosen.media_type.contains("index") && !chosen.media_type.contains("manifest.list") {
            let manifest: Manifest = store.parse(&name, &bytes)?;
            let (name, digest) = store.blob(&manifest.config.digest)?;
            let configuration = store.document(&name, Some(&digest))?;
            let mut layers = Vec::new();
            for layer in &manifest.layers {
                let (name, digest) = store.blob(&layer.digest)?;
                let length = store.open(&name)?.length;
                if layer.size.is_some_and(|size| size != length) {
                    return Err(store.error(format!("is damaged: '{name}' has the wrong length")));
                }
                layers.push(Wanted { name, digest: Some(digest) });
            }
            return Ok((store.parse(&name, &configuration)?, layers));
        }
    }
    Err(store.error("is damaged: its indexes have no end"))
}

/// The manifest for this machine among several.
fn choose<'a>(store: &Store, all: &'a [Descriptor]) -> Result<&'a Descriptor, RootfsError> {
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
    };
    let mut fitting = all.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) if one.digest == other.digest => Ok(one),
        (Some(_), Some(_)) => Err(store.error("has several images; make a layout of one")),
        (None, _) => Err(store.error("has no image for linux/amd64")),
    }
}

/// The configuration and the layers of what `docker save` wrote.
fn open_saved(store: &Store) -> Result<(Configuration, Vec<Wanted>), RootfsError> {
    const NAME: &str = "manifest.json";
    let images: Vec<SavedImage> = store.parse(NAME, &store.document(NAME, None)?)?;
    let [image] = images.as_slice() else {
        return Err(store.error(format!("has {} images; save one", images.len())));
    };
    // Docker names configurations by their digests.
    let name = image.config.trim_start_matches("blobs/sha256/").trim_end_matches(".json");
    let digest = store.blob(&format!("sha256:{name}")).ok().map(|(_, digest)| digest);
    let configuration = store.document(&image.config, digest.as_deref())?;
    let configuration = store.parse(&image.config, &configuration)?;
    let layers = image.layers.iter().cloned().map(|name| Wanted { name, digest: None }).collect();
    Ok((configuration, layers))
}
