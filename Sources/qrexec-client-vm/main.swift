import LinuxSystem
import QrexecClient

// A program of its own, because one starts for each call: it carries no other tool.
CurrentProcess.completeStandardStreams()
CurrentProcess.exit(ClientVM.run(arguments: CurrentProcess.arguments))
