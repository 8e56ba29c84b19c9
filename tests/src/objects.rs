//! Objects of the API server: put there, changed, taken away, from a place that reaches it.

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::netns::Netns;

/// A user of the API server.
#[derive(Clone, Debug)]
pub struct Objects {
    netns: Netns,
    kubeconfig: String,
}

/// Who owns what these functions write.
const OWNER: &str = "lab";

impl Objects {
    /// The user of a kubeconfig, in a namespace from which the server is reached.
    pub fn new(netns: &Netns, kubeconfig: String) -> Self {
        Self { netns: netns.clone(), kubeconfig }
    }

    /// Does something with a client, on a thread in that namespace.
    pub fn run<T: Send>(&self, deed: impl AsyncFnOnce(Client) -> Result<T> + Send) -> Result<T> {
        self.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { deed(client(&self.kubeconfig).await?).await })
        })
    }

    /// Puts objects there, or brings those that are there to what is written.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.run(async |client| {
            for object in objects {
                let (api, name) = door(&client, object)?;
                let params = PatchParams::apply(OWNER).force();
                let done = api.patch(&name, &params, &Patch::Apply(object)).await;
                done.with_context(|| format!("could not apply {object:#}"))?;
            }
            Ok(())
        })
    }

    /// The same with the status that is written in some of them: a status is not taken from where its object is written.
    pub fn apply_with_status(&self, objects: &[Value]) -> Result<()> {
        let bare = |object: &Value| {
            let mut object = object.clone();
            object.as_object_mut().map(|fields| fields.remove("status"));
            object
        };
        self.apply(&objects.iter().map(bare).collect::<Vec<_>>())?;
        self.run(async |client| {
            for object in objects.iter().filter(|object| object.get("status").is_some()) {
                let (api, name) = door(&client, object)?;
                let piece = Patch::Merge(json!({ "status": object["status"] }));
                let done = api.patch_status(&name, &PatchParams::default(), &piece).await;
                done.with_context(|| format!("could not set the status of {object:#}"))?;
            }
            Ok(())
        })
    }

    /// The documents of a file, applied.
    pub fn apply_file(&self, path: &std::path::Path) -> Result<()> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        self.apply(&documents(&text)?)
    }

    /// What the server has under an object's kind and name.
    pub fn get(&self, object: &Value) -> Result<Value> {
        self.run(async |client| {
            let (api, name) = door(&client, object)?;
            Ok(serde_json::to_value(api.get(&name).await?)?)
        })
    }

    /// Takes an object away.
    pub fn delete(&self, object: &Value) -> Result<()> {
        self.run(async |client| {
            let (api, name) = door(&client, object)?;
            api.delete(&name, &DeleteParams::default())
                .await
                .with_context(|| format!("could not delete {name}"))?;
            Ok(())
        })
    }

    /// Merges a piece into an object.
    pub fn merge(&self, object: &Value, piece: &Value) -> Result<()> {
        self.run(async |client| {
            let (api, name) = door(&client, object)?;
            let done = api.patch(&name, &PatchParams::default(), &Patch::Merge(piece)).await;
            done.with_context(|| format!("could not change {name}")).map(drop)
        })
    }

    /// Makes a namespace, and returns its name.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })])
    }

    /// A token of a service account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        self.run(async |client| {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
            let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
            let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
            let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
            answer.status.and_then(|status| status.token).context("no token came")
        })
    }
}

/// A client for the server that a kubeconfig names.
pub async fn client(kubeconfig: &str) -> Result<Client> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(kubeconfig)?, &options).await?;
    Ok(Client::try_from(config)?)
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    use serde::Deserialize as _;
    serde_norway::Deserializer::from_str(text).map(|document| Ok(Value::deserialize(document)?)).collect()
}

fn door(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let version = text(&object["apiVersion"]).context("an object without apiVersion")?;
    let kind = text(&object["kind"]).context("an object without kind")?;
    let name = text(&object["metadata"]["name"]).context("an object without name")?;
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api = match text(&object["metadata"]["namespace"]) {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, name))
}
