//! otel-config/kubernetes.yaml in a real Collector: what Kubernetes calls a process, by what acceptd observed of it. Its API is one
//! of ours, which knows pods with containers of Docker's engine, and one whose container it does not know yet.

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

use super::{ARRIVAL, STOP, servers::containers};
use crate::{
    agent, collector, command,
    docker::Engine,
    process::{first_line, until},
    records::{Record, Tail},
    workspace::Workspace,
};

const NODE: &str = "node-1";
/// Of the pod whose container the API does not know.
const POD_UID: &str = "0b6e5f1c-94ac-4c39-8f0e-6d1d7c3f7a11";
/// That container.
const CONTAINER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// Runs all three, and holds the Resources that arrive against the pods.
pub(crate) fn measure(workspace: &Workspace, agent_binary: &Path, folder: &Path) -> Result<()> {
    let binary = collector::build_contrib(workspace)?;
    let api = Api::start()?;
    let config = folder.join("kubeconfig");
    fs::write(&config, kubeconfig(api.port)).context("writing a kubeconfig")?;
    let shipped = fs::read_to_string(workspace.path("otel-config/kubernetes.yaml"))
        .context("reading otel-config/kubernetes.yaml")?;
    let environment = [
        ("KUBECONFIG", config.as_os_str()),
        ("ACCEPTD_KUBERNETES_AUTH", "kubeConfig".as_ref()),
        ("KUBE_NODE_NAME", NODE.as_ref()),
    ];
    let sink = collector::start_with(&binary, folder, &[&shipped], &environment)?;
    let mut run = Run { arrived: Tail::new(sink.file.clone()), records: Vec::new() };
    let groups = Cgroups::mount(folder.join("host"))?;
    let root = format!("host.root={}", groups.root.display());
    let mut agent = agent::start_with(agent_binary, folder, sink.port, &[root])?;
    run.records = agent::wait_until_captures(&mut agent, &mut run.arrived)?;
    let outcome = run.compare(&api, &groups, folder);
    agent.stop(STOP)?;
    sink.process.stop(STOP)?;
    outcome
}

struct Run {
    arrived: Tail,
    records: Vec<Record>,
}

impl Run {
    fn compare(&mut self, api: &Api, groups: &Cgroups, folder: &Path) -> Result<()> {
        // Outside of Kubernetes the fallback is back, and nothing of ours is left.
        let own = std::process::id().to_string();
        let is_own = |record: &&Record| record.is_accept() && record.resource("process.pid") == own;
        let outside = self.records.iter().find(is_own).context("no record of this process")?;
        expect(outside, &[("service.name", "unknown_service:xtask"), ("k8s.pod.name", "")])?;
        ensure!(outside.resource("acceptd.fallback").is_empty(), "acceptd.fallback is left");

        let engine = containers::start(folder)?;
        let outcome = self.compare_containers(api, &engine);
        engine.stop()?;
        outcome?;

        api.add(pod("early", POD_UID, &[]));
        let record = self.accepted_in_a_pod(groups, "early-6c4b-9qkzd")?;
        expect(&record, &[("k8s.pod.uid", POD_UID), ("service.name", "early")])?;
        expect(&record, &[("container.id", CONTAINER), ("k8s.deployment.name", "early")])?;
        // Its container is in another pod, and that is asked first.
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
            // The API tells the Collector of it in its own time.
            let record = until("a record with the pod's name", ARRIVAL, || {
                container.ping()?;
                self.records.extend(self.arrived.read()?);
                let all = container.records(&self.records);
                Ok(all.into_iter().find(|record| !record.resource("k8s.pod.name").is_empty()).cloned())
            })?;
            expect(&record, &names)?;
            expect(&record, &[("container.id", &container.id), ("service.name", service)])?;
        }
        Ok(())
    }

    /// A record of the process in the pod's cgroup, once the Collector calls its pod so.
    fn accepted_in_a_pod(&mut self, groups: &Cgroups, name: &str) -> Result<Record> {
        until(&format!("a record of {name}"), ARRIVAL, || {
            let mut server = groups.accept_in_a_pod()?;
            let record = until("the record of the process in a pod", ARRIVAL, || {
                self.records.extend(self.arrived.read()?);
                let is_of = |record: &&Record| record.attribute("network.local.port") == server.port;
                Ok(self.records.iter().rfind(is_of).cloned())
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

/// Cgroups of version 2 under a root that the agent is told of, with that of a pod's container as containerd makes it.
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
        // From here on what is mounted is unmounted.
        let groups = Self { root, mounted, pod, container };
        // The host's processes are what the agent describes.
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

    /// A process in the container, which accepted once.
    fn accept_in_a_pod(&self) -> Result<Server> {
        let this = std::env::current_exe().context("this program has no path")?;
        // As an engine does it: what runs in the container was never anywhere else.
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$1\" && exec \"$2\" accept-once", "sh"])
            .arg(self.container.join("cgroup.procs"))
            .arg(this)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let port = first_line(&mut child)?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?)).context("connecting to the pod")?;
        Ok(Server { child, port })
    }
}

/// A process in the pod, which stays until it is ended: of one that is gone the agent could not learn where it was.
struct Server {
    child: Child,
    port: String,
}

impl Server {
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

/// A pod of a deployment, as the API has it. The processor finds the deployment's name by those of the replicaset and of its label.
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

/// As much of the Kubernetes API as watching pods takes, which is all that the processor asks for.
struct Api {
    port: u16,
    pods: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    /// Serves as long as this program runs.
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let port = listener.local_addr()?.port();
        let pods = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&pods);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let known = Arc::clone(&known);
                // Ends with this program, or with an error.
                thread::spawn(move || answer(stream, &known));
            }
        });
        Ok(Self { port, pods })
    }

    fn add(&self, pod: Value) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).push(pod);
    }
}

/// Streams what there is, and what is added: a watch that begins with a list.
fn answer(mut stream: TcpStream, pods: &Mutex<Vec<Value>>) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    while !lines.next().context("no end of the head")??.is_empty() {}
    let path = request.split(['?', ' ']).nth(1).unwrap_or_default();
    if path != "/api/v1/pods" {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        bail!("the Collector asked for {path}");
    }
    // Without a length the body ends with the connection.
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
    let mut told = 0;
    let mut tell_new = |stream: &mut TcpStream| -> Result<()> {
        let all = pods.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pod in &all[told..] {
            writeln!(stream, "{}", json!({"type": "ADDED", "object": pod}))?;
        }
        told = all.len();
        Ok(())
    };
    tell_new(&mut stream)?;
    let end = json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata":
        {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
    writeln!(stream, "{end}")?;
    loop {
        thread::sleep(Duration::from_millis(50));
        tell_new(&mut stream)?;
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
