//! otel-config/kubernetes.yaml in a real Collector: the k8sattributes processor must add the names that
//! Kubernetes has for a process that acceptd observed. The API server is a fake one. It knows pods with
//! containers of Docker's engine, and a pod whose container it does not know yet.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask_support::{External, command};

use super::{
    deadlines::{ARRIVAL, STOP},
    servers::containers,
};
use crate::{
    agent, collector,
    docker::Engine,
    process::{first_line, until},
    records::{Record, Tail},
    suite::Suite,
};

const NODE: &str = "node-1";
/// The uid of the pod whose container the API does not know.
const POD_UID: &str = "0b6e5f1c-94ac-4c39-8f0e-6d1d7c3f7a11";
/// The id of that container.
const CONTAINER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// Runs API, Collector and agent, and compares the Resources that arrive with the pods.
pub(crate) fn measure(suite: &Suite, folder: &Path) -> Result<()> {
    let api = Api::start()?;
    let config = folder.join("kubeconfig");
    fs::write(&config, kubeconfig(api.port)).context("writing a kubeconfig")?;
    let shipped = suite.collector_config("kubernetes.yaml")?;
    let environment = [
        ("KUBECONFIG", config.as_os_str()),
        ("ACCEPTD_KUBERNETES_AUTH", "kubeConfig".as_ref()),
        ("KUBE_NODE_NAME", NODE.as_ref()),
    ];
    let binary = suite.external(External::CollectorContrib)?;
    let collector = collector::start_with(binary, folder, &[&shipped], &environment)?;
    let mut run = Run { arrived: Tail::new(collector.file.clone()), records: Vec::new() };
    let groups = Cgroups::mount(folder.join("host"))?;
    let root = format!("host.root={}", groups.root.display());
    let mut agent = agent::start_with(&suite.program("acceptd"), folder, collector.port, &[root])?;
    run.records = agent::wait_until_captures(&mut agent, &mut run.arrived)?;
    let outcome = run.compare(&api, &groups, folder);
    agent.stop(STOP)?;
    collector.process.stop(STOP)?;
    outcome
}

struct Run {
    arrived: Tail,
    records: Vec<Record>,
}

impl Run {
    fn compare(&mut self, api: &Api, groups: &Cgroups, folder: &Path) -> Result<()> {
        // Outside of Kubernetes, the fallback service name is restored, and the temporary attribute is
        // removed.
        let own = std::process::id().to_string();
        let is_own = |record: &&Record| record.is_accept() && record.resource("process.pid") == own;
        let outside = self.records.iter().find(is_own).context("no record of this process")?;
        expect(outside, &[("service.name", "unknown_service:suites"), ("k8s.pod.name", "")])?;
        ensure!(outside.resource("acceptd.fallback").is_empty(), "acceptd.fallback is left");

        let engine = containers::start_engine(folder)?;
        let outcome = self.compare_containers(api, &engine);
        engine.stop()?;
        outcome?;

        api.add(pod("early", POD_UID, &[]));
        let record = self.accepted_in_a_pod(groups, "early-6c4b-9qkzd")?;
        expect(&record, &[("k8s.pod.uid", POD_UID), ("service.name", "early")])?;
        expect(&record, &[("container.id", CONTAINER), ("k8s.deployment.name", "early")])?;
        // Another pod has its container, and the Collector associates by the container first.
        api.add(pod("moved", "99999999-2222-4333-8444-555555555555", &[CONTAINER]));
        let record = self.accepted_in_a_pod(groups, "moved-6c4b-9qkzd")?;
        expect(&record, &[("service.name", "moved"), ("k8s.container.name", "server")])
    }

    fn compare_containers(&mut self, api: &Api, engine: &Engine) -> Result<()> {
        let (nameless, named) =
            (containers::serve(engine, None, 1)?, containers::serve(engine, Some("basket"), 1)?);
        api.add(pod("shop", "11111111-2222-4333-8444-555555555555", &[&nameless.id, &named.id]));
        let names = [
            ("k8s.pod.name", "shop-6c4b-9qkzd"),
            ("k8s.deployment.name", "shop"),
            ("k8s.namespace.name", "market"),
            ("k8s.node.name", NODE),
            ("k8s.container.name", "server"),
            ("container.image.name", "example/server"),
        ];
        for (container, service) in [(nameless, "shop"), (named, "basket")] {
            // The Collector learns of the pod some time after it was added.
            let record = until("a record with the pod's name", ARRIVAL, || {
                container.ping()?;
                self.records.extend(self.arrived.read()?);
                let all = container.accepts(&self.records);
                Ok(all.into_iter().find(|record| !record.resource("k8s.pod.name").is_empty()).cloned())
            })?;
            expect(&record, &names)?;
            expect(&record, &[("container.id", &container.id), ("service.name", service)])?;
        }
        Ok(())
    }

    /// Accepts in the pod's cgroup until the Collector adds this pod name to the record; returns the record.
    fn accepted_in_a_pod(&mut self, groups: &Cgroups, name: &str) -> Result<Record> {
        until(&format!("a record of {name}"), ARRIVAL, || {
            let mut server = groups.accept_in_a_pod()?;
            let record = until("the record of the process in a pod", ARRIVAL, || {
                self.records.extend(self.arrived.read()?);
                let is_from_server = |record: &&Record| record.attribute("network.local.port") == server.port;
                Ok(self.records.iter().rfind(is_from_server).cloned())
            })?;
            server.end()?;
            Ok(Some(record).filter(|record| record.resource("k8s.pod.name") == name))
        })
    }
}

fn expect(record: &Record, resource: &[(&str, &str)]) -> Result<()> {
    for (key, wanted) in resource {
        let found = record.resource(key);
        ensure!(found == *wanted, "{key} is {found:?}, and should be {wanted:?}: {record:?}");
    }
    Ok(())
}

/// Cgroups of version 2 below a `host.root`, with the cgroup of a pod's container as containerd creates it.
struct Cgroups {
    root: PathBuf,
    mounted: PathBuf,
    pod: PathBuf,
    container: PathBuf,
}

impl Cgroups {
    fn mount(root: PathBuf) -> Result<Self> {
        let mounted = root.join("sys/fs/cgroup");
        let pod = mounted.join(format!("kubepods-burstable-pod{}.slice", POD_UID.replace('-', "_")));
        let container = pod.join(format!("cri-containerd-{CONTAINER}.scope"));
        // From here on, dropping the value unmounts.
        let groups = Self { root, mounted, pod, container };
        // The agent describes the host's processes.
        let proc = groups.root.join("proc");
        for (arguments, at) in
            [(["-t", "cgroup2", "none"].as_slice(), &groups.mounted), (&["--bind", "/proc"], &proc)]
        {
            fs::create_dir_all(at)?;
            let mut mount = Command::new("mount");
            mount.args(arguments).arg(at);
            command::run(mount)?;
        }
        fs::create_dir_all(&groups.container).context("making a pod's cgroup")?;
        Ok(groups)
    }

    /// Starts a process in the container's cgroup and lets it accept once.
    fn accept_in_a_pod(&self) -> Result<PodProcess> {
        let this = std::env::current_exe().context("this program has no path")?;
        // Moved before exec, as a container engine does it: the program never runs in another cgroup.
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$1\" && exec \"$2\" accept-once", "sh"])
            .arg(self.container.join("cgroup.procs"))
            .arg(this)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let port = first_line(&mut child)?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?)).context("connecting to the pod")?;
        Ok(PodProcess { child, port })
    }
}

/// A process in the pod. It runs until [`PodProcess::end`]: the agent reads the cgroup of a live process.
struct PodProcess {
    child: Child,
    port: String,
}

impl PodProcess {
    fn end(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait()?.success(), "the process in the pod failed");
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for cgroup in [&self.container, &self.pod] {
            _ = fs::remove_dir(cgroup);
        }
        for at in [&self.mounted, &self.root.join("proc")] {
            _ = Command::new("umount").arg(at).status();
        }
    }
}

/// A pod of a deployment, as the API returns it. The processor derives the deployment's name from the name of
/// the replicaset and the label with its hash.
fn pod(deployment: &str, uid: &str, containers: &[&str]) -> Value {
    let container =
        |id: &&str| json!({"name": "server", "containerID": format!("docker://{id}"), "restartCount": 0});
    let replicaset = format!("{deployment}-6c4b");
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("{replicaset}-9qkzd"),
            "namespace": "market",
            "uid": uid,
            "resourceVersion": "1",
            "labels": {"pod-template-hash": "6c4b"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replicaset, "uid": replicaset, "controller": true,
            }],
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "server", "image": "example/server:1.0"}]},
        "status": {
            "podIP": "10.1.0.9",
            "containerStatuses": containers.iter().map(container).collect::<Vec<_>>(),
        },
    })
}

/// A fake Kubernetes API. It only serves a watch of pods, which is all that the processor asks for.
struct Api {
    port: u16,
    pods: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    /// Starts to serve, for as long as this program runs.
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let port = listener.local_addr()?.port();
        let pods = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&pods);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let known = Arc::clone(&known);
                // The thread ends with this program, or with an error of the connection.
                thread::spawn(move || answer(stream, &known));
            }
        });
        Ok(Self { port, pods })
    }

    fn add(&self, pod: Value) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).push(pod);
    }
}

/// Streams the known pods, and those that are added later: a watch with `sendInitialEvents`.
fn answer(mut stream: TcpStream, pods: &Mutex<Vec<Value>>) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    while !lines.next().context("no end of the head")??.is_empty() {}
    let path = request.split(['?', ' ']).nth(1).unwrap_or_default();
    if path != "/api/v1/pods" {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        bail!("the Collector asked for {path}");
    }
    // Without Content-Length, the body ends with the connection.
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
    let mut sent = 0;
    let mut send_new = |stream: &mut TcpStream| -> Result<()> {
        let all = pods.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pod in &all[sent..] {
            writeln!(stream, "{}", json!({"type": "ADDED", "object": pod}))?;
        }
        sent = all.len();
        Ok(())
    };
    send_new(&mut stream)?;
    let end = json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata":
        {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
    writeln!(stream, "{end}")?;
    loop {
        thread::sleep(Duration::from_millis(50));
        send_new(&mut stream)?;
    }
}

fn kubeconfig(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: tests, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: nobody, user: {{}}}}]
contexts: [{{name: tests, context: {{cluster: tests, user: nobody}}}}]
current-context: tests
"
    )
}
