# The checks of test_dozen.py, for Serverspec.
require 'serverspec'
require 'net/ssh'

set :backend, :ssh
host = ENV.fetch('PEER_HOST')
options = Net::SSH::Config.for(host, [ENV.fetch('SSH_CONFIG')])
options[:verify_host_key] = :never
set :host, options[:host_name] || host
set :ssh_options, options

%w[docker ssh].each do |name|
  describe service(name) do
    it { should be_running }
  end
end

describe service('docker') do
  it { should be_enabled }
end

%w[docker.io python3 openssh-server].each do |name|
  describe package(name) do
    it { should be_installed }
  end
end

%w[/etc/docker/daemon.json /etc/os-release].each do |path|
  describe file(path) do
    it { should exist }
  end
end

describe file('/etc/docker/daemon.json') do
  its(:content) { should match(/nvidia/) }
end

['docker info', 'nvidia-smi -L', 'systemctl is-system-running'].each do |line|
  describe command(line) do
    its(:exit_status) { should eq 0 }
  end
end
