//! `--rootfs` of container images: they run as `docker run` runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ensure;
use super::rootfs::{airlock, root, text};
use crate::command::Run;
use crate::harness::{Context, Tests};

/// What the image says of how it is run.
const CONFIGURATION: &str = r#""User":"web:staff","Env":["PATH=/bin","GREETING=from the image"],
    "Entrypoint":["/bin/sh","-c"],"Cmd":["echo the command of the image; pwd"],"WorkingDir":"/srv/work""#;
/// What is asked of it instead.
const SCRIPT: &str = "echo \"$0 $1\"; id -u; id -g; id -un; id -gn; pwd; echo \"$GREETING\"; echo \"$HOME\"; \
    cat /etc/motd; ls /etc; stat -c '%u %g %a' /srv/work; echo x > /srv/work/file; cat /srv/work/file";

/// Runs an applet of busybox in a directory of the test; returns what it prints.
fn applet(context: &Context, directory: &Path, line: &[&str]) -> Result<String, String> {
    let output = Command::new(context.fixture("busybox"))
        .args(line)
        .current_dir(directory)
        .output()
        .map_err(text)?;
    ensure(output.status.success(), || format!("{line:?}: {output:?}"))?;
    String::from_utf8(output.stdout).map_err(text)
}

/// The image's parts in the test's directory: two layers, of which the second takes away and adds.
struct Parts<'a> {
    context: &'a Context,
    layers: [PathBuf; 2],
    configuration: String,
}

impl<'a> Parts<'a> {
    fn new(context: &'a Context) -> Result<Self, String> {
        let lower = root(context)?;
        let write = |path: PathBuf, content: &str| {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
                .and_then(|()| fs::write(&path, content))
                .map_err(text)
        };
        write(lower.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")?;
        write(lower.join("etc/group"), "root:x:0:\nweb:x:34:\nstaff:x:50:web\n")?;
        write(lower.join("etc/gone"), "not seen\n")?;
        fs::create_dir_all(lower.join("srv/work")).map_err(text)?;
        let upper = context.directory.join("upper");
        write(upper.join("etc/motd"), "the second layer\n")?;
        write(upper.join("etc/.wh.gone"), "")?;
        write(upper.join("many/.wh..wh..opq"), "")?;
        let layers = ["lower.tar", "upper.tar"].map(|name| context.directory.join(name));
        let applet = |line: &[&str]| applet(context, &context.directory, line);
        applet(&["chmod", "777", "root/srv/work"])?;
        for applet_name in ["id", "pwd"] {
            applet(&["ln", "-s", "busybox", &format!("root/bin/{applet_name}")])?;
        }
        applet(&["tar", "-cf", "lower.tar", "-C", "root", "."])?;
        applet(&["tar", "-cf", "upper.tar", "-C", "upper", "etc", "many"])?;
        let mut parts = Self { context, layers, configuration: String::new() };
        let digests = [parts.digest(&parts.layers[0])?, parts.digest(&parts.layers[1])?];
        parts.configuration = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{{CONFIGURATION}}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{}","sha256:{}"]}}}}"#,
            digests[0], digests[1]
        );
        Ok(parts)
    }

    fn digest(&self, path: &Path) -> Result<String, String> {
        let path = path.to_str().ok_or("a path that is no text")?;
        let line = applet(self.context, &self.context.directory, &["sha256sum", path])?;
        line.split_whitespace().next().map(str::to_owned).ok_or_else(|| "no digest".to_owned())
    }

    /// An archive as `docker save` wrote it before it wrote OCI layouts.
    fn saved(&self) -> Result<PathBuf, String> {
        let directory = self.context.directory.join("saved");
        fs::create_dir_all(directory.join("one")).map_err(text)?;
        fs::create_dir_all(directory.join("two")).map_err(text)?;
        fs::copy(&self.layers[0], directory.join("one/layer.tar")).map_err(text)?;
        fs::copy(&self.layers[1], directory.join("two/layer.tar")).map_err(text)?;
        fs::write(directory.join("configuration"), &self.configuration).map_err(text)?;
        let name = format!("{}.json", self.digest(&directory.join("configuration"))?);
        fs::rename(directory.join("configuration"), directory.join(&name)).map_err(text)?;
        let manifest = format!(
            r#"[{{"Config":"{name}","RepoTags":["test:latest"],"Layers":["one/layer.tar","two/layer.tar"]}}]"#
        );
        fs::write(directory.join("manifest.json"), manifest).map_err(text)?;
        let line = ["tar", "-cf", "../saved.tar", "manifest.json", "one", "two", &name];
        applet(self.context, &directory, &line)?;
        Ok(self.context.directory.join("saved.tar"))
    }

    /// An OCI layout; in a directory, or in an archive.
    fn layout(&self, archived: bool) -> Result<PathBuf, String> {
        let directory = self.context.directory.join("layout");
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(text)?;
        let blob = |path: &Path| -> Result<String, String> {
            let digest = self.digest(path)?;
            let size = fs::copy(path, blobs.join(&digest)).map_err(text)?;
            Ok(format!(r#""digest":"sha256:{digest}","size":{size}"#))
        };
        let written = |name: &str, content: &str| {
            let path = self.context.directory.join(name);
            fs::write(&path, content).map_err(text).map(|()| path)
        };
        const TYPE: &str = r#""mediaType":"application/vnd.oci.image"#;
        // One of the layers is compressed, the other is not.
        applet(self.context, &self.context.directory, &["gzip", "-k", "lower.tar"])?;
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{{TYPE}.config.v1+json",{}}},
            "layers":[{{{TYPE}.layer.v1.tar+gzip",{}}},{{{TYPE}.layer.v1.tar",{}}}]}}"#,
            blob(&written("config.json", &self.configuration)?)?,
            blob(&self.context.directory.join("lower.tar.gz"))?,
            blob(&self.layers[1])?
        );
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{{TYPE}.manifest.v1+json",{},
            "platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
            blob(&written("manifest", &manifest)?)?
        );
        fs::write(directory.join("index.json"), index).map_err(text)?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .map_err(text)?;
        if !archived {
            return Ok(directory);
        }
        applet(
            self.context,
            &directory,
            &["tar", "-cf", "../layout.tar", "oci-layout", "index.json", "blobs"],
        )?;
        Ok(self.context.directory.join("layout.tar"))
    }
}

fn run(
    context: &Context,
    options: &[&str],
    source: &Path,
    command: &[&str],
) -> Result<Run, String> {
    airlock(context)
        .args(["run"])
        .args(options.iter().copied())
        .args(["--rootfs".as_ref(), source.as_os_str()])
        .args(command)
        .run()
}

fn check(run: &Run, expected: &str) -> Result<(), String> {
    ensure(run.status == 0 && run.stdout == expected.as_bytes() && run.stderr.is_empty(), || {
        format!("expected {expected:?}: {run:?}")
    })
}

fn all(context: &Context, source: &Path) -> Result<(), String> {
    check(&run(context, &[], source, &[])?, "the command of the image\n/srv/work\n")?;
    let rest = "33\n50\nweb\nstaff";
    let files = "the second layer\nagain\ngroup\nlink\nmotd\npasswd\n0 0 777\nx\n";
    check(
        &run(context, &[], source, &[SCRIPT, "zero", "one"])?,
        &format!("zero one\n{rest}\n/srv/work\nfrom the image\n/srv\n{files}"),
    )?;
    let options = ["--env", "GREETING=mine", "--workdir", "/tmp"];
    check(
        &run(context, &options, source, &[SCRIPT, "zero", "one"])?,
        &format!("zero one\n{rest}\n/tmp\nmine\n/srv\n{files}"),
    )?;
    check(&run(context, &[], source, &["ls /many | wc -l"])?, "0\n")?;
    let failed = run(context, &[], source, &["exit 9"])?;
    ensure(failed.status == 9 && failed.complaint().is_empty(), || format!("{failed:?}"))?;
    context.check_nothing_left()
}

pub(super) fn add(tests: &mut Tests) {
    tests.add("containers/docker save", |context| all(context, &Parts::new(context)?.saved()?));
    for (name, archived) in [("a directory", false), ("an archive", true)] {
        tests.add(format!("containers/an OCI layout in {name}"), move |context| {
            all(context, &Parts::new(context)?.layout(archived)?)
        });
    }
    tests.add("containers/packed", |context| {
        let source = Parts::new(context)?.saved()?;
        let pack = airlock(context)
            .args(["pack".as_ref(), source.as_os_str(), "-o".as_ref(), "packed.erofs".as_ref()])
            .run()?;
        ensure(pack.status == 0 && pack.stderr.is_empty(), || format!("{pack:?}"))?;
        all(context, &context.directory.join("packed.erofs"))
    });
}
